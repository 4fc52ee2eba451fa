"""The trace of a run as one page that needs nothing but itself, with the same run as JSON beside it.

The page shows the picture with every crop's box on it and, beside it, what the agent thought, cut out, computed and
looked up until it answered. Everything that a model, a tool or a user wrote is hostile here: it is escaped, characters
that steer a display are made visible, and the page's own policy forbids scripts and every request (pictures are data
URIs, the one style sheet is named by its hash). There is no script: pointing at a step dims the other boxes by CSS.
"""

import base64
import hashlib
import html
import io
import json
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from foveate.agent.marks import (
    COLOURS,
    FAINT_COLOUR,
    Mark,
    marks_of,
    marks_of_steps,
    plate_corners,
    plate_width,
)
from foveate.agent.plain import printable
from foveate.agent.records import Answer, ImageRecord, Step, Usage
from foveate.agent.replacing import replaced
from foveate.paths import expanded

LIMIT_PX = 1600
LOSSLESS_AREA_PX = 300_000
SHEET_WIDTH_PX, SHEET_HEIGHT_PX = 680, 760
PLATE_PX = 18
ICONS = {
    "think": '<path d="M3.5 5h9M3.5 8h9M3.5 11h5.5"/>',
    "zoom": '<circle cx="7" cy="7" r="4.2"/><path d="M10.2 10.2L14 14"/>',
    "python": '<path d="M5.5 4.5L2 8l3.5 3.5M10.5 4.5L14 8l-3.5 3.5"/>',
    "search": '<path d="M3 3h7a3 3 0 0 1 3 3v7H6a3 3 0 0 1-3-3zM3 10a3 3 0 0 1 3-3h7"/>',
    "tool": '<path d="M8 2v12M2 8h12"/>',
    "answer": '<path d="M3 8.5l3.2 3.2L13 5"/>',
    "error": '<path d="M8 3v6M8 12.2v.3"/>',
}
LoadImage = Callable[[str], Image.Image]


def write_trace(answer: Answer, question: str, load: LoadImage, folder: Path | str) -> Path:
    """Write `folder`/trace.html and `folder`/trace.json and return the page's path.

    `load` gives the pixels of an image by its sha256 (an image store's ``get``). The folder is made when missing;
    a trace that lies there is replaced. Raises OSError when the folder cannot be written.
    """
    folder = expanded(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"question": question, **answer.to_json()}
    page = trace_page(answer, question, load)
    _write(folder / "trace.json", json.dumps(record, indent=2) + "\n")
    return _write(folder / "trace.html", page)


def trace_page(answer: Answer, question: str, load: LoadImage) -> str:
    """The page's HTML."""
    marks = marks_of(answer)
    style = _resource("trace.css") + _mark_rules(marks)
    pictures = _pictures_of(answer)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    reason = f'<p class="reason" dir="auto">{_text(answer.reason)}</p>' if answer.reason else ""
    return Template(_resource("trace.html")).substitute(
        style=style,
        style_hash=f"sha256-{digest}",
        title=_text(f"{question[:80]} · Foveate trace"),
        question=_text(question),
        status=answer.status,
        status_text=answer.status_text,
        answer=_text(answer.text) or "No answer",
        reason=reason,
        usage=_usage(answer.usage),
        pictures="\n".join(_picture(number, record, marks, load) for number, record in pictures),
        steps="\n".join(
            _step(step, mark, load) for step, mark in zip(answer.steps, marks_of_steps(answer, marks), strict=True)
        ),
    )


def _pictures_of(answer: Answer) -> list[tuple[int, ImageRecord]]:
    """The user's pictures with their numbers: no crop, no second view of the same pixels, no drawing of a tool.

    Records of before 2026-11-29 do not say that a tool drew them, the step that did says so.
    """
    made = {step.image for step in answer.steps}
    pictures: dict[str, tuple[int, ImageRecord]] = {}
    for number, record in enumerate(answer.images):
        views = sum(other.sha256 == record.sha256 for other in answer.images)
        drawn = record.drawn or (record.sha256 in made and views == 1)
        if not record.is_crop and not drawn:
            pictures.setdefault(record.sha256, (number, record))
    return list(pictures.values())


def _resource(name: str) -> str:
    return resources.files("foveate.agent").joinpath(name).read_text(encoding="utf-8")


def _text(text: str) -> str:
    """Text from outside, safe inside an element or a quoted attribute."""
    return html.escape(printable(text), quote=True)


def _mark_rules(marks: Sequence[Mark]) -> str:
    """A colour for each mark, and the rules that dim the others while its step is pointed at."""
    rules = [f".f {{ --mark: {FAINT_COLOUR}; }}", *(f".c{i} {{ --mark: {c}; }}" for i, c in enumerate(COLOURS))]
    rules += [".badge.n { background: var(--mark); }", ".mark .frame { stroke: var(--mark); }"]
    rules += [".mark .plate { fill: var(--mark); }"]
    rules += [f"main:has(.s{m.number}:hover) .mark:not(.m{m.number}) {{ opacity: .12; }}" for m in marks]
    return "\n".join(rules)


def _class_of(mark: Mark) -> str:
    return "f" if mark.faint else f"c{COLOURS.index(mark.colour)}"


def _usage(usage: Usage) -> str:
    figures = (
        ("turns", f"{usage.turns:,}"),
        ("tool calls", f"{usage.tool_calls:,}"),
        ("policy tokens", f"{usage.policy_tokens:,}"),
        ("image tokens", f"{usage.image_tokens:,}"),
        ("seconds", f"{usage.seconds:.1f}"),
    )
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)


def _picture(number: int, record: ImageRecord, marks: Sequence[Mark], load: LoadImage) -> str:
    """A picture of the user with the boxes of its crops, everything outside of them under a thin veil."""
    width_px, height_px = record.width_px, record.height_px
    own = [mark for mark in marks if mark.original == record.sha256]
    unit = 1 / min(1.0, SHEET_WIDTH_PX / width_px, SHEET_HEIGHT_PX / height_px)
    veil = _veil(number, width_px, height_px, own) if own else ""
    plates = zip(own, plate_corners(own, PLATE_PX * unit, (width_px, height_px)), strict=True)
    boxes = "".join(_box(mark, corner, unit) for mark, corner in sorted(plates, key=lambda pair: not pair[0].faint))
    return (
        f'<figure class="picture"><div class="sheet">'
        f'<img src="{_data_uri(load(record.sha256))}" width="{width_px}" height="{height_px}" alt="image {number}">'
        f'<svg viewBox="0 0 {width_px} {height_px}" preserveAspectRatio="none" role="img" '
        f'aria-label="{len(own)} boxes">{veil}{boxes}</svg></div>'
        f"<figcaption>image {number} · {width_px} × {height_px} px</figcaption></figure>"
    )


def _veil(number: int, width_px: int, height_px: int, marks: Sequence[Mark]) -> str:
    """A dark sheet over picture `number` with a hole at each mark."""
    size = f'width="{width_px}" height="{height_px}"'
    holes = "".join(f"<rect {_geometry(mark)}/>" for mark in marks)
    return (
        f'<mask id="veil-{number}"><rect {size} fill="#fff"/><g fill="#000">{holes}</g></mask>'
        f'<rect class="veil" {size} mask="url(#veil-{number})"/>'
    )


def _geometry(mark: Mark) -> str:
    x0, y0, x1, y1 = mark.box_px
    return f'x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}"'


def _box(mark: Mark, corner: tuple[float, float], unit: float) -> str:
    """A frame, and its number on a plate at `corner`; `unit` is the picture's pixels in one pixel of the page."""
    x, y = corner
    width, height = plate_width(mark, PLATE_PX * unit), PLATE_PX * unit
    frame = f'{_geometry(mark)} rx="{2 * unit:.1f}"'
    faint = " faint" if mark.faint else ""
    return (
        f'<g class="mark m{mark.number} {_class_of(mark)}{faint}">'
        f'<rect class="halo" {frame}/><rect class="frame" {frame}/>'
        f'<rect class="plate" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'rx="{4 * unit:.1f}"/><text x="{x + width / 2:.1f}" y="{y + height / 2:.1f}" '
        f'font-size="{12 * unit:.1f}">{mark.number}</text></g>'
    )


def _step(step: Step, mark: Mark | None, load: LoadImage) -> str:
    kind = {"tool": "tool", "think": "think", "answer": "answer-step", "error": "error"}[step.kind]
    name = step.tool if step.tool in ICONS else step.kind
    number = f" s{mark.number} {_class_of(mark)}" if mark else ""
    badge = f'<span class="badge n">{mark.number}</span>' if mark else ""
    title = {"think": "Thought", "answer": "Answer", "error": "Told to the model"}.get(step.kind, step.tool or "tool")
    return (
        f'<li class="step {kind}{" failed" if step.failed else ""}{number}">'
        f'<span class="icon"><svg viewBox="0 0 16 16" aria-hidden="true">{ICONS[name or "tool"]}</svg></span>'
        f'<div class="head"><b>{_text(title)}</b>{badge}{_place(step)}<span class="meta">{_meta(step)}</span></div>'
        f"{_tool_body(step, mark, load) if step.kind == 'tool' else _paragraph(step.text)}</li>"
    )


def _meta(step: Step) -> str:
    tokens = f"{step.tokens:,} tokens" if step.tokens else ""
    seconds = f"{step.seconds:.1f} s" if step.seconds >= 0.05 else ""
    return " · ".join(part for part in (tokens, seconds) if part)


def _place(step: Step) -> str:
    """Where a crop lies in the user's picture, in its pixels."""
    if step.box_px is None:
        return ""
    x0, y0, x1, y1 = step.box_px
    return f'<span class="place">{x1 - x0:.0f} × {y1 - y0:.0f} px at {x0:.0f}, {y0:.0f}</span>'


def _paragraph(text: str) -> str:
    return f'<p dir="auto">{_text(text)}</p>'


def _tool_body(step: Step, mark: Mark | None, load: LoadImage) -> str:
    arguments: dict[str, Any] = step.arguments or {}
    crop = ""
    if step.image is not None:
        label = f"image {mark.number}" if mark else "image"
        crop = f'<div class="crop">{_crop(load(step.image), label)}</div>'
    if step.tool == "zoom" and crop and not step.failed:
        return crop
    if step.tool == "python" and isinstance(arguments.get("code"), str):
        output = f'<pre class="out">{_text(step.text)}</pre>' if step.text else ""
        return f"<pre>{_text(arguments['code'])}</pre>{output}{crop}"
    if step.tool == "search" and isinstance(arguments.get("query"), str):
        passage = f'<p class="passage" dir="auto">{_text(step.text)}</p>'
        return f'<p class="query" dir="auto">“{_text(arguments["query"])}”</p>{passage}'
    call = _text(json.dumps(arguments, ensure_ascii=False))
    return f'<pre>{call}</pre><pre class="out">{_text(step.text)}</pre>{crop}'


def _crop(image: Image.Image, label: str) -> str:
    """A crop, at most three times its size: small print stays readable and is not blown up to a blur."""
    scale = min(3.0, 540 / image.width, 300 / image.height)
    size = f'width="{max(1, round(image.width * scale))}"'
    return f'<img src="{_data_uri(image)}" {size} alt="{label}">'


def _data_uri(image: Image.Image) -> str:
    """The image as JPEG, or as PNG when it is small, its long side at most LIMIT_PX."""
    image = image.convert("RGB")
    image.thumbnail((LIMIT_PX, LIMIT_PX), Image.Resampling.LANCZOS)
    lossless = image.width * image.height <= LOSSLESS_AREA_PX
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=88, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _write(path: Path, text: str) -> Path:
    with replaced(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path
