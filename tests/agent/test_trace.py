"""The trace page is one file that asks for nothing, shows every box where it is, and interprets no text from outside.

Hostile strings go into every place that a user, a model or a tool can fill; the page is then read with an HTML parser,
and its elements must be the ones that a harmless run has. A real browser opens such a page beside a server that counts
what is asked for: escaping alone and the page's policy alone each keep every request back.
"""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from scripted import ScriptedReasoner, answer

from foveate.agent.agent import Agent
from foveate.agent.images import picture_record
from foveate.agent.records import Answer, Box, ImageRecord, Step, Usage
from foveate.agent.trace import LIMIT_PX, trace_page, write_trace

PICTURE = Image.new("RGB", (2400, 1200), "#dde4ee")
CROP, INNER = PICTURE.crop((200, 100, 800, 400)), PICTURE.crop((300, 200, 360, 220))
IMAGES = {"p" * 64: PICTURE, "c" * 64: CROP, "i" * 64: INNER}
BOX: Box = (200.0, 100.0, 800.0, 400.0)
INNER_BOX: Box = (300.0, 200.0, 360.0, 220.0)
HOSTILE = (
    "</p><script>alert(1)</script>",
    "</style><style>*{display:none}</style>",
    '"><img src=x onerror=alert(1)>',
    "<svg onload=alert(1)><a href='https://example.org'>x</a>",
    "$style ${style} $$",
    "<!-- </title> ]]> &lt;b&gt;",
    "\x1b[31m\u202ekcab\u2066 \x00 \ud800",
)
PROBES = {
    "img": '"><img src="URL">',
    "handler": "<img src=x onerror=\"fetch('URL')\">",
    "svg": '<svg><image href="URL"/></svg>',
    "sheet": '<link rel=stylesheet href="URL">',
    "import": '<style>@import "URL";</style>',
    "background": "<style>header{background:url(URL)}</style>",
    "script": '<script src="URL"></script>',
    "fetch": "<script>fetch('URL')</script>",
    "frame": '<iframe src="URL"></iframe>',
    "object": '<object data="URL"></object>',
    "video": '<video src="URL" autoplay></video>',
    "preload": '<link rel=preload as=image href="URL">',
}
"""Markup of which each piece asks for URL, where it is taken for markup."""
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Elements, attributes and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def record(sha256: str, box_px: Box) -> ImageRecord:
    width_px, height_px = IMAGES[sha256].size
    return ImageRecord(sha256=sha256, width_px=width_px, height_px=height_px, original="p" * 64, box_px=box_px)


def run(text: str = "seven") -> Answer:
    """A run in which `text` stands wherever text from outside can stand."""
    return Answer(
        text=text,
        status="answered",
        reason=text,
        usage=Usage(turns=4, policy_tokens=1234, tool_calls=4),
        images=(record("p" * 64, (0.0, 0.0, 2400.0, 1200.0)), record("c" * 64, BOX), record("i" * 64, INNER_BOX)),
        steps=(
            Step(kind="think", text=text, tokens=3),
            Step(kind="tool", tool="zoom", text="image 1", arguments={"image": 0}, box_px=BOX, image="c" * 64),
            Step(kind="tool", tool="zoom", text="image 2", arguments={"image": 1}, box_px=INNER_BOX, image="i" * 64),
            Step(kind="tool", tool="zoom", text=text, arguments={text: text}, failed=True),
            Step(kind="tool", tool="python", text=text, arguments={"code": text}),
            Step(kind="tool", tool="search", text=text, arguments={"query": text}),
            Step(kind="tool", tool=text, text=text, arguments={"deep": [{"er": text}]}),
            Step(kind="error", text=text, failed=True),
            Step(kind="answer", text=text),
        ),
    )


def page_of(answer: Answer, question: str = "How many?") -> str:
    return trace_page(answer, question, IMAGES.__getitem__)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_from_outside_becomes_markup(text: str) -> None:
    small = dict.fromkeys(IMAGES, INNER).__getitem__
    harmless, hostile = (Page(trace_page(run(said), said, small)) for said in ("seven", text))
    assert hostile.elements == harmless.elements
    assert Counter(name for name, _ in hostile.attributes) == Counter(name for name, _ in harmless.attributes)
    for name, value in hostile.attributes:
        assert not name.startswith("on")
        assert text not in value
    if text.isprintable():
        assert hostile.text.count(text) >= 10


def test_characters_that_steer_a_display_are_replaced() -> None:
    page = page_of(run(HOSTILE[-1]), HOSTILE[-1])
    assert not re.search("[\x00\x1b\u202e\u2066\ud800]", page)
    assert "\ufffd[31m\ufffdkcab" in page


def test_the_page_asks_for_nothing() -> None:
    page = page_of(run("see https://example.org"))
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "form", "base", "a"} & set(parsed.elements)
    for name, value in parsed.attributes:
        if name in ("src", "href", "srcset", "action"):
            assert value.startswith("data:image/"), value[:40]
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "://" not in page.replace("see https://example.org", "")


@pytest.fixture
def server() -> Iterator[tuple[str, set[str]]]:
    """An address on this machine, and the paths that have been asked for there."""
    asked: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.add(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", asked
        served.shutdown()
        thread.join()


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium")
def test_a_browser_asks_for_nothing_whatever_the_text_says(server: tuple[str, set[str]], tmp_path: Path) -> None:
    url, asked = server
    small = dict.fromkeys(IMAGES, INNER).__getitem__
    policy = re.compile("<meta http-equiv[^>]*>")
    harmless = trace_page(run(), "How many?", small)

    def probes(page: str) -> str:
        return "".join(markup.replace("URL", f"{url}/{page}/{name}") for name, markup in PROBES.items())

    pages = {
        "page": trace_page(run(probes("page")), probes("page"), small),
        "escaped": policy.sub("", trace_page(run(probes("escaped")), probes("escaped"), small)),
        "forbidden": harmless.replace("<main>", probes("forbidden")),
        "neither": policy.sub("", harmless).replace("<main>", probes("neither")),
    }
    for name, page in pages.items():
        (tmp_path / f"{name}.html").write_text(page, encoding="utf-8")
    frames = tmp_path / "frames.html"
    frames.write_text("".join(f'<iframe src="{name}.html"></iframe>' for name in pages))
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(BROWSER), *options, profile, "--virtual-time-budget=500", "--dump-dom", frames.as_uri()]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert asked == {f"/neither/{name}" for name in PROBES}, "a page with neither asks, with every probe"


def test_the_policy_allows_only_data_images_and_this_style() -> None:
    page = page_of(run())
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in page
    assert " style=" not in page


def test_every_box_is_drawn_in_the_pixels_of_the_picture() -> None:
    page = page_of(run())
    assert 'viewBox="0 0 2400 1200"' in page
    frames = re.findall(r'class="frame" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', page)
    assert frames == [("200.0", "100.0", "600.0", "300.0"), ("300.0", "200.0", "60.0", "20.0")]
    assert re.findall(r"<text [^>]*>(\d+)</text>", page) == ["1", "2"]
    assert page.count('class="step ') == 9


def test_a_picture_is_embedded_small_and_a_crop_whole() -> None:
    sources = [value for name, value in Page(page_of(run())).attributes if name == "src"]
    sizes = [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size for source in sources]
    assert sizes == [(LIMIT_PX, LIMIT_PX // 2), CROP.size, INNER.size]


def test_a_zoom_on_the_whole_picture_shows_the_picture_once() -> None:
    whole = record("p" * 64, (0.0, 0.0, 2400.0, 1200.0))
    step = Step(kind="tool", tool="zoom", text="image 1", arguments={}, box_px=whole.box_px, image="p" * 64)
    answer = Answer(text="", status="out_of_budget", steps=(step,), usage=Usage(), images=(whole, whole))
    assert page_of(answer).count('class="picture"') == 1


def test_a_drawing_of_an_earlier_question_is_no_picture_of_the_user() -> None:
    def draw() -> Image.Image:
        return INNER

    turns = ['<tool_call>{"name":"draw","arguments":{}}</tool_call>', answer("K7"), answer("K8")]
    with Agent(ScriptedReasoner(turns), tools=[draw], checkpoint=":memory:") as agent:
        agent.ask("Draw it.", PICTURE, thread="t")
        followed = agent.ask("And now?", thread="t")
        page = trace_page(followed, "And now?", agent.image)
    assert (followed.text, len(followed.images)) == ("K8", 2)
    assert page.count('class="picture"') == 1


def test_a_drawing_in_a_record_that_does_not_say_so_is_no_picture_of_the_user() -> None:
    images = (picture_record("p" * 64, PICTURE.size), picture_record("i" * 64, INNER.size))
    step = Step(kind="tool", tool="draw", text="image 1", arguments={}, image="i" * 64)
    old = Answer(text="K7", status="answered", steps=(step,), usage=Usage(), images=images)
    assert page_of(old).count('class="picture"') == 1


def test_write_trace_writes_the_page_and_the_record(tmp_path: Path) -> None:
    page = write_trace(run("\ud800 ünï"), "How many?", IMAGES.__getitem__, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "trace.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["trace.html", "trace.json"]
    kept = json.loads((page.parent / "trace.json").read_text(encoding="utf-8"))
    assert kept["question"] == "How many?"
    assert kept["steps"][1]["box"] == list(BOX)
    assert kept["answer"] == "\ud800 ünï"
