"""The trace page is one file that asks for nothing, shows every box where it is, and interprets no text from outside.

Hostile strings go into every place that a user, a model or a tool can fill; the page is then read with an HTML parser,
and its elements must be the ones that a harmless run has.
"""

import base64
import hashlib
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

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
VOID = {"meta", "img", "link", "br", "input", "rect", "circle", "path"}


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


def test_write_trace_writes_the_page_and_the_record(tmp_path: Path) -> None:
    page = write_trace(run("\ud800 ünï"), "How many?", IMAGES.__getitem__, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "trace.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["trace.html", "trace.json"]
    kept = json.loads((page.parent / "trace.json").read_text(encoding="utf-8"))
    assert kept["question"] == "How many?"
    assert kept["steps"][1]["box"] == list(BOX)
    assert kept["answer"] == "\ud800 ünï"
