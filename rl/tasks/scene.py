"""What a generator hands out: a picture, questions about it, and how an oracle that knows everything would answer them.

A scene has two to five different questions about one picture: drawing costs more than asking, and training reads them
as a conversation with follow-up questions. `draw_scene` is a pure function of (family, seed, split): the same three
values give the same pixels and words on every machine with the same Pillow.
"""

import importlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from PIL import Image

from foveate.rl.tasks.assets import Split

Box = tuple[float, float, float, float]
Family = Literal["label", "table", "total", "compare", "pointer", "fact"]
FAMILIES: tuple[Family, ...] = ("label", "table", "total", "compare", "pointer", "fact")
ToolName = Literal["zoom", "python", "search"]


@dataclass(frozen=True, kw_only=True)
class OracleStep:
    """One turn of the oracle: a short thought, then a call."""

    thought: str
    tool: ToolName
    arguments: dict[str, Any]
    """zoom: {"image": k, "box": (x0, y0, x1, y1)}, k = 0 the picture, k >= 1 the k-th crop made for this question, the
    box in whole pixels of that image; python: {"code"}; search: {"query"}."""
    result: str = ""
    """What the tool prints: exact stdout of python; the passage that answers for search; empty for zoom."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about a picture and the oracle's way to its answer."""

    text: str
    answer: str
    accept: tuple[str, ...] = ()
    """Other right spellings of the answer."""
    evidence: tuple[Box, ...]
    """Parts of the picture that must be read to answer, in its pixels."""
    steps: tuple[OracleStep, ...]
    final_thought: str
    family: str


def original_boxes(question: Question) -> list[tuple[int, int, int, int]]:
    """The oracle's crops in pixels of the scene's picture."""
    boxes: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)]
    for step in question.steps:
        if step.tool == "zoom":
            x, y = boxes[step.arguments["image"]][:2]
            x0, y0, x1, y1 = step.arguments["box"]
            boxes.append((x + x0, y + y0, x + x1, y + y1))
    return boxes[1:]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something nameable in a picture and where it is, asked about or not."""

    name: str
    """As in a question, without the article: "red star", "umbrella", "letter K", "number 7", "flag of Peru"."""
    box: Box


class Glyph(NamedTuple):
    """A drawn character: as wide as its ink, from the baseline up to the height of a capital (lettering.py)."""

    character: str
    box: Box


class Drawing(NamedTuple):
    """What a family's generator returns."""

    image: Image.Image
    questions: tuple[Question, ...]
    marks: tuple[Mark, ...]
    glyphs: tuple[Glyph, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture with its questions."""

    image: Image.Image = field(repr=False)
    questions: tuple[Question, ...]
    marks: tuple[Mark, ...]
    glyphs: tuple[Glyph, ...] = field(repr=False)
    family: str
    seed: int
    split: Split


def draw_scene(family: str, seed: int, split: Split) -> Scene:
    """Draw one picture of a family and make its questions.

    Raises ValueError for an unknown family.
    """
    if family not in FAMILIES:
        raise ValueError(f"family {family!r}; wanted one of {', '.join(FAMILIES)}")
    rng = random.Random(f"{family}/{split}/{seed}")
    module = importlib.import_module(f"foveate.rl.tasks.{family}")
    draw = cast(Callable[[random.Random, Split], Drawing], module.draw)
    drawing = draw(rng, split)
    return Scene(**drawing._asdict(), family=family, seed=seed, split=split)
