"""The boxes of a run on the pictures that they were cut from.

A mark is a numbered, coloured box in the upright pixels of one of the user's pictures. Its number is the number of the
crop in the run (the ``N`` of ``image N`` that the model was told), so the page and the model's own text agree.
A crop that an earlier question of the conversation made is a faint mark: the run could look at it, but did not cut it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from foveate.agent.records import Answer, ImageRecord, Step
from foveate.tools.tool import Box

COLOURS = ("#e2532f", "#2f7fd6", "#12946a", "#8b4fc6", "#c98a00", "#c7366f", "#0d8a99", "#7a5c45")
FAINT_COLOUR = "#8a8f98"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One box on one picture."""

    number: int
    """Number of the crop in the run, counted from 0 with the user's pictures first."""
    original: str
    """sha256 of the picture that `box_px` refers to."""
    box_px: Box
    colour: str
    """``#rrggbb``."""
    faint: bool = False
    """Made by an earlier question of the conversation."""


def marks_of(answer: Answer) -> tuple[Mark, ...]:
    """One mark for each crop of the run, in the order of the crops."""
    cut_now = set(crops_of_steps(answer))
    marks: list[Mark] = []
    for number, record in enumerate(answer.images):
        if not record.is_crop:
            continue
        faint = number not in cut_now
        colour = FAINT_COLOUR if faint else COLOURS[sum(not mark.faint for mark in marks) % len(COLOURS)]
        marks.append(
            Mark(number=number, original=record.original, box_px=record.box_px, colour=colour, faint=faint),
        )
    return tuple(marks)


def marks_of_steps(answer: Answer, marks: Sequence[Mark]) -> list[Mark | None]:
    """For each step of the run the mark of the crop that it made, None for one that made none."""
    by_number = {mark.number: mark for mark in marks}
    return [None if number is None else by_number[number] for number in crops_of_steps(answer)]


def crops_of_steps(answer: Answer) -> list[int | None]:
    """For each step the number of the crop that it made. Of several crops of one place the run made the last ones."""
    left = [number for number, record in enumerate(answer.images) if record.is_crop]
    found: list[int | None] = []
    for step in reversed(answer.steps):
        number = next((number for number in reversed(left) if _shows(answer.images[number], step)), None)
        if number is not None:
            left.remove(number)
        found.append(number)
    return found[::-1]


def plate_width(mark: Mark, height: float) -> float:
    """Width of the plate that holds the mark's number, for plates of this height."""
    return height * (0.62 + 0.4 * len(str(mark.number)))


def plate_corners(marks: Sequence[Mark], height: float, size_px: tuple[int, int]) -> list[tuple[float, float]]:
    """Upper left corner of each mark's plate in a picture of this size.

    Left of its box, inside where there is no room, below earlier plates, or above them at the lower edge; no plate
    leaves the picture while it has room for it.
    """
    taken: list[tuple[float, float, float]] = []
    for mark in marks:
        width, gap = plate_width(mark, height), height / 9
        x0, y = mark.box_px[:2]
        x = x0 - width - gap if x0 > width + gap else x0
        x, y = max(0.0, min(x, size_px[0] - width)), max(0.0, min(y, size_px[1] - height))
        step = height + gap
        while any(left < x + width and x < right and abs(top - y) < height for left, top, right in taken):
            if step > 0 and y + step + height > size_px[1]:
                step = -step
            y += step
            if y < 0:  # the edge is full of them
                break
        taken.append((x, y, x + width))
    return [(x, y) for x, y, _ in taken]


def _shows(record: ImageRecord, step: Step) -> bool:
    return (record.sha256, record.box_px) == (step.image, step.box_px)
