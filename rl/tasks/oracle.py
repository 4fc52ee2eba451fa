"""From a generator's plan to the oracle's steps.

A generator says what it would look at (`Look`: a target in canvas pixels), compute (`Compute`) and look up
(`Lookup`). Only after the picture has been augmented, and maybe rotated, `settle` turns targets into crop boxes: the
target with a margin, never smaller than what a small model can aim at, never outside the picture. Nothing about a crop
is random: what cannot be predicted cannot be learned either (docs/log.md).
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from foveate.rl.tasks.augment import augment
from foveate.rl.tasks.canvas import VIEW_AREA, Canvas
from foveate.rl.tasks.scene import Box, Drawing, Glyph, Mark, OracleStep, Question

MAX_SIDE = 640
MARGIN, LEAST_MARGIN = 0.04, 0.025
"""On each side of a target: of its length, and at least of the side that it is cut from, so that a box that is wrong by
one step of its rounding still holds what must be read."""
MIN_VIEW = (46, 40)
"""Smallest crop, width and height, measured in pixels of the first view (where the policy aims)."""
PLURALS = ("scissors", "glasses", "grapes", "cherries")
CODE_NAMES = {"round": round, "max": max, "min": min, "sum": sum, "abs": abs, "len": len}


@dataclass(frozen=True, kw_only=True)
class Look:
    """Zoom so that the crop holds `target` (canvas pixels); `within` is 0 for the picture, k for the k-th crop."""

    thought: str
    target: Box
    within: int = 0


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Run a line of arithmetic."""

    thought: str
    code: str


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Search the local corpus; `result` is what the search says."""

    thought: str
    query: str
    result: str


Plan = Look | Compute | Lookup


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A question before its picture is final; every box in canvas pixels."""

    text: str
    answer: str
    accept: tuple[str, ...] = ()
    evidence: tuple[Box, ...]
    plan: tuple[Plan, ...]
    final_thought: str


def run_code(code: str) -> str:
    """Stdout of a line of our own arithmetic, without the newline at its end."""
    out = io.StringIO()  # of this line alone: pictures are drawn in threads
    names = CODE_NAMES | {"print": partial(print, file=out)}
    exec(compile(code, "<oracle>", "exec"), {"__builtins__": names})  # noqa: S102 - our own generated line
    return out.getvalue().rstrip("\n")


def place_word(box: Box, size: tuple[float, float]) -> str:
    """Where a box lies in a picture: "top left", "top", ..., "middle"."""
    across = (box[0] + box[2]) / 2 / size[0]
    down = (box[1] + box[3]) / 2 / size[1]
    column = "left" if across < 1 / 3 else "right" if across > 2 / 3 else ""
    row = "top" if down < 1 / 3 else "bottom" if down > 2 / 3 else ""
    return " ".join(filter(None, (row, column))) or "middle"


def union(boxes: Sequence[Box]) -> Box:
    """The smallest box around all boxes."""
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def widen(low: float, high: float, minimum: float, bounds: tuple[int, int]) -> tuple[int, int]:
    """One side of a crop around low..high: margins, at least `minimum` long, at most MAX_SIDE, inside `bounds`."""
    length = high - low
    margin = max(MARGIN * length, LEAST_MARGIN * (bounds[1] - bounds[0]), (minimum - length) / 2)
    margin = max(0.0, min(margin, (MAX_SIDE - length) / 2))
    start, end = int(low - margin), int(high + margin + 0.999)
    return max(bounds[0], start), min(bounds[1], end)


def crop_box(target: Box, bounds: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The oracle's crop around a target, in canvas pixels, inside `bounds` (the picture or an earlier crop)."""
    width, height = bounds[2] - bounds[0], bounds[3] - bounds[1]
    scale = max(1.0, (width * height / VIEW_AREA) ** 0.5)
    x0, x1 = widen(target[0], target[2], MIN_VIEW[0] * scale, (bounds[0], bounds[2]))
    y0, y1 = widen(target[1], target[3], MIN_VIEW[1] * scale, (bounds[1], bounds[3]))
    return x0, y0, x1, y1


def settle(draft: Draft, family: str, size: tuple[int, int], move: Callable[[Box], Box]) -> Question:
    """Make the question of a draft: boxes moved with the picture, targets turned into crops, code run."""
    crops: list[tuple[int, int, int, int]] = [(0, 0, *size)]
    steps: list[OracleStep] = []
    for part in draft.plan:
        if isinstance(part, Look):
            source = crops[part.within]
            x0, y0, x1, y1 = crop_box(move(part.target), source)
            crops.append((x0, y0, x1, y1))
            inner = (x0 - source[0], y0 - source[1], x1 - source[0], y1 - source[1])
            steps.append(OracleStep(thought=part.thought, tool="zoom", arguments={"image": part.within, "box": inner}))
        elif isinstance(part, Compute):
            steps.append(
                OracleStep(
                    thought=part.thought, tool="python", arguments={"code": part.code}, result=run_code(part.code)
                )
            )
        else:
            steps.append(
                OracleStep(thought=part.thought, tool="search", arguments={"query": part.query}, result=part.result)
            )
    return Question(
        text=draft.text,
        answer=draft.answer,
        accept=draft.accept,
        evidence=tuple(move(box) for box in draft.evidence),
        steps=tuple(steps),
        final_thought=draft.final_thought,
        family=family,
    )


def finish(canvas: Canvas, drafts: Sequence[Draft], family: str) -> Drawing:
    """Augment the picture and settle the drafts on it; what two of them ask in the same words is asked once."""
    image, move = augment(canvas.image, canvas.rng, canvas.theme.page)
    asked = {draft.text: draft for draft in drafts}.values()
    questions = tuple(settle(draft, family, image.size, move) for draft in asked)
    marks = tuple(Mark(name=mark.name, box=move(mark.box)) for mark in canvas.marks)
    glyphs = tuple(Glyph(glyph.character, move(glyph.box)) for glyph in canvas.glyphs)
    return Drawing(image, questions, marks, glyphs)


def seen_at(subject: str, box: Box, frame: Box | tuple[int, int]) -> str:
    """The sentence that says where in a frame (a box, or a picture's size) something is.

    For example "The red star is at the top left." or "The scissors are in the middle."
    """
    left, top, right, bottom = frame if len(frame) == 4 else (0, 0, *frame)
    where = place_phrase((box[0] - left, box[1] - top, box[2] - left, box[3] - top), (right - left, bottom - top))
    verb = "are" if subject.endswith(PLURALS) else "is"
    return f"{subject} {verb} {where}."


def place_phrase(box: Box, size: tuple[float, float]) -> str:
    """Where a box lies in a picture of that size: "in the middle", "at the top left"."""
    place = place_word(box, size)
    return f"{'in' if place == 'middle' else 'at'} the {place}"
