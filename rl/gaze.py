"""Where a writer looks: for words that a turn takes from a picture, the part of the picture that they come from.

The generators know what every turn is about; foveate.rl.looks turns it into what attention is asked for.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from foveate.models.reasoner import Message
from foveate.rl.oracle_messages import FLAG, Conversation, single_marks
from foveate.rl.pages import text_runs, written
from foveate.rl.tasks.compare import COUNTED_GLYPH
from foveate.rl.tasks.scene import Box, Drawing, Glyph, Scene

SHORTEST_READ = 2
"""Characters of a text that is looked for in a turn; shorter ones occur by chance."""
_CALL = re.compile(r'<tool_call>\{"name":"zoom","arguments":(\{.*?\})\}</tool_call>')
_FOUND = re.compile(r"the [^;<]+ (\d+),(\d+),(\d+),(\d+)")
_NUMBERS = re.compile(r'"image":(\d+),"box":\[(\d+),(\d+),(\d+),(\d+)\]|the [^;<]+ (\d+),(\d+),(\d+),(\d+)')
EDGE = 50
"""Least width, in thousandths of a side, of the strip along a side of a box that its number looks at."""
Kind = Literal["point", "side", "read"]
_FLAG = re.compile(rf"{FLAG}([^;.<]+)")
_COUNTING = re.compile(r"I count (\d+)\.")
_QUOTED = re.compile(r'"(.+)"')


@dataclass(frozen=True, kw_only=True)
class Gaze:
    """A piece of a turn and what it looks at."""

    turn: int
    """Which of the assistant's turns."""
    start: int
    end: int
    """Bytes of the turn's text in UTF-8."""
    image: int
    box: Box
    """In pixels of the picture from which all images are cut."""
    kind: Kind = "point"
    """At a whole box, at the side of a box, at a character."""
    after: Box | None = None
    """For the first character of a text: the last one of the text that was read or asked about before it."""


def gazes(conversation: Conversation, drawing: Drawing | Scene) -> list[Gaze]:
    """All gazes of a conversation about a drawing, in order."""
    found: list[Gaze] = []
    shown = 1
    turns = [number for number, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    runs = text_runs(drawing.glyphs)
    for turn, number in enumerate(turns):
        text = str(conversation.messages[number]["content"])
        found += [*_pointing(turn, text, conversation.boxes), *_sides(turn, text, conversation.boxes)]
        image = shown - 1
        inside = [run for run in runs if all(_inside(run[end].box, conversation.boxes[image]) for end in (0, -1))]
        quoted = _quoted(conversation.messages[number - 1], inside)
        found += _reading(turn, text, inside, image, quoted)
        found += _counting(turn, text, drawing, conversation.boxes[image], image)
        found += _naming(turn, text, drawing, conversation.boxes[image], image)
        shown += _brings_image(conversation, number)
    return found


def _quoted(question: Message, runs: Sequence[Sequence[Glyph]]) -> Box | None:
    """The last character of the text that a question puts in quotes, when it stands there once."""
    content = question["content"]
    asked = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
    match = _QUOTED.search(asked)
    named = [run for run in runs if match and written(run) == match[1]]
    return named[0][-1].box if len(named) == 1 else None


def _brings_image(conversation: Conversation, number: int) -> bool:
    """Whether the message after a turn is an observation with a new image."""
    following = conversation.messages[number + 1 : number + 2]
    return any(m["role"] == "tool" and any(part["type"] == "image" for part in m["content"]) for m in following)


def _pointing(turn: int, text: str, boxes: Sequence[Box]) -> Iterator[Gaze]:
    """A zoom's last sentence and its box; every place of a list of places."""
    call = _CALL.search(text)
    if call:
        arguments = json.loads(call[1])
        last_sentence = text.rfind(". ", 0, max(0, text.find("</think>"))) + 1
        image = arguments["image"]
        yield _gaze(turn, text, (last_sentence, call.end()), image, _part(boxes[image], arguments["box"]))
    for found in _FOUND.finditer(text):
        yield _gaze(turn, text, found.span(), 0, _part(boxes[0], [int(value) for value in found.groups()]))


def _sides(turn: int, text: str, boxes: Sequence[Box]) -> Iterator[Gaze]:
    """Each number of each box: a strip along the side that it tells."""
    for match in _NUMBERS.finditer(text):
        first = 2 if match[1] else 6
        image, box = int(match[1] or 0), [int(match[first + side]) for side in range(4)]
        for side in range(4):
            strip = list(box)
            low, high = box[side % 2], box[side % 2 + 2]
            width = min(high - low, max(EDGE, (high - low) // 3))
            strip[side % 2 + 2 * (side < 2)] = low + width if side < 2 else high - width
            yield _gaze(turn, text, match.span(first + side), image, _part(boxes[image], strip), "side")


def _reading(turn: int, text: str, runs: Sequence[Sequence[Glyph]], image: int, quoted: Box | None) -> Iterator[Gaze]:
    """Every text of the latest image that the turn writes, character by character; the first time only."""
    whole = '"code"' in text or "</think>" not in text
    end = len(text) if whole else text.find("</think>")
    taken: set[int] = set()
    read: list[tuple[int, Sequence[Glyph]]] = []
    for run in runs:
        start, glyphs = next(
            ((at, part) for part in _forms(run) if (at := _find(text, written(part), end)) >= 0), (-1, run)
        )
        places = range(start, start + len(glyphs))
        if start >= 0 and taken.isdisjoint(places):
            taken |= set(places)
            read.append((start, glyphs))
    after = quoted
    for start, glyphs in sorted(read, key=lambda found: found[0]):
        for place, glyph in enumerate(glyphs):
            span = (start + place, start + place + 1)
            yield replace(_gaze(turn, text, span, image, glyph.box, "read"), after=None if place else after)
        after = glyphs[-1].box


def _counting(turn: int, text: str, drawing: Drawing | Scene, view: Box, image: int) -> Iterator[Gaze]:
    """Each digit of a counting looks at its thing: those in a piece of evidence inside the view that holds as many."""
    said = _COUNTING.search(text)
    if not said:
        return
    things = [glyph for glyph in drawing.glyphs if glyph.character == COUNTED_GLYPH]
    for place in dict.fromkeys(box for question in drawing.questions for box in question.evidence):
        some = [glyph for glyph in things if _inside(glyph.box, place)]
        if _inside(place, view) and len(some) == len(said[1]):
            for at, glyph in enumerate(some, said.start(1)):
                yield _gaze(turn, text, (at, at + 1), image, glyph.box, "read")
            return


def _naming(turn: int, text: str, drawing: Drawing | Scene, view: Box, image: int) -> Iterator[Gaze]:
    """Each country that is named looks at its flag, when the view shows that once."""
    flags = {mark.name: mark.box for mark in single_marks(drawing.marks) if _inside(mark.box, view)}
    for named in _FLAG.finditer(text):
        if named[0] in flags:
            yield _gaze(turn, text, named.span(1), image, flags[named[0]])


def _forms(run: Sequence[Glyph]) -> Iterator[Sequence[Glyph]]:
    """A text as it may be written: whole, without its currency, its last two words."""
    text = written(run)
    yield run
    if text != text.lstrip("$€"):
        yield run[len(text) - len(text.lstrip("$€")) :]
    words = text.split(" ")
    if len(words) > 2:
        yield run[-len(" ".join(words[-2:])) :]


def _find(text: str, wanted: str, end: int) -> int:
    """Where a text stands whole and not in quotes in the first `end` characters of a turn; -1 when nowhere."""
    if len(wanted) < SHORTEST_READ:
        return -1
    match = re.search(rf"(?<![\w.\"]){re.escape(wanted)}(?!\w|\.\d)", text[:end])
    return match.start() if match else -1


def _gaze(turn: int, text: str, piece: tuple[int, int], image: int, box: Box, kind: Kind = "point") -> Gaze:
    start, end = (len(text[:place].encode()) for place in piece)
    return Gaze(turn=turn, start=start, end=end, image=image, box=box, kind=kind)


def _part(view: Box, box: Sequence[int]) -> Box:
    """The part of the picture that a relative box of a view names."""
    wide, tall = view[2] - view[0], view[3] - view[1]
    x0, y0, x1, y1 = (value / 1000 for value in box)
    return view[0] + x0 * wide, view[1] + y0 * tall, view[0] + x1 * wide, view[1] + y1 * tall


def _inside(box: Box, view: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return view[0] <= x <= view[2] and view[1] <= y <= view[3]
