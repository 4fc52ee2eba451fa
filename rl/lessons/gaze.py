"""Where a writer looks: for words that a turn takes from a picture, the part of the picture that they come from.

The generators know what every turn is about; foveate.rl.lessons.looks turns it into what attention is asked for.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from foveate.models.reasoner import Message
from foveate.rl.lessons.oracle_messages import FLAG, Conversation, holds, single_marks
from foveate.rl.lessons.pages import text_runs, written
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
_MEET = re.compile(r"Row (.+) and column (.+) meet")


class Meeting(NamedTuple):
    """The marks of a row and a column."""

    row: Box
    column: Box


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
    among: tuple[Box, ...] = ()
    """All that is counted: the n-th of these is meant, in the order in which the image's tokens spell them."""


def gazes(conversation: Conversation, drawing: Drawing | Scene) -> list[Gaze]:
    """All gazes of a conversation about a drawing, in order."""
    found: list[Gaze] = []
    shown = 1
    turns = [number for number, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    runs = text_runs(drawing.glyphs)
    for turn, number in enumerate(turns):
        text = str(conversation.messages[number]["content"])
        meeting = _meeting(text, drawing)
        found += _crossing(turn, text, meeting) if meeting else _pointing(turn, text, conversation.boxes)
        found += _sides(turn, text, conversation.boxes, meeting)
        image = shown - 1
        inside = [run for run in runs if all(holds(conversation.boxes[image], run[end].box) for end in (0, -1))]
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


def _meeting(text: str, drawing: Drawing | Scene) -> Meeting | None:
    """The marks of the row and the column that a turn says meet; None without such a sentence."""
    said = _MEET.search(text)
    marks = {name: mark.box for mark in single_marks(drawing.marks) for name in (mark.name, mark.name.split(" ")[-1])}
    return Meeting(marks[said[1]], marks[said[2]]) if said and said[1] in marks and said[2] in marks else None


def _crossing(turn: int, text: str, meeting: Meeting) -> Iterator[Gaze]:
    """The sentence that says where a row and a column meet looks at their marks, each number of the box at its own.

    Nothing is seen where they meet: a cell is found by the marks alone.
    """
    numbers = _NUMBERS.search(text)
    if not numbers:
        return
    sentence = (text.find("meet"), numbers.start(2))
    for mark in meeting:
        yield _gaze(turn, text, sentence, 0, mark)
    for side in range(4):
        yield _gaze(turn, text, numbers.span(2 + side), 0, meeting.column if side % 2 == 0 else meeting.row)


def _sides(turn: int, text: str, boxes: Sequence[Box], meeting: Meeting | None) -> Iterator[Gaze]:
    """Each number of each box: a strip along the side that it tells; of a cell, as far along as its mark is."""
    for match in _NUMBERS.finditer(text):
        first = 2 if match[1] else 6
        image, box = int(match[1] or 0), [int(match[first + side]) for side in range(4)]
        for side in range(4):
            strip = list(box)
            low, high = box[side % 2], box[side % 2 + 2]
            width = min(high - low, max(EDGE, (high - low) // 3))
            strip[side % 2 + 2 * (side < 2)] = low + width if side < 2 else high - width
            part = _part(boxes[image], strip)
            if meeting and side % 2 == 0:
                part = (part[0], meeting.column[1], part[2], meeting.column[3])
            elif meeting:
                part = (meeting.row[0], part[1], meeting.row[2], part[3])
            yield _gaze(turn, text, match.span(first + side), image, part, "side")


def _reading(turn: int, text: str, runs: Sequence[Sequence[Glyph]], image: int, quoted: Box | None) -> Iterator[Gaze]:
    """Every text of the latest image that the turn writes, character by character; each of equal ones once.

    A thought that says a text again, as one that computes with some of the numbers it read, looks at it again.
    """
    whole = '"code"' in text or "</think>" not in text
    end = len(text) if whole else text.find("</think>")
    taken: set[int] = set()
    read: list[tuple[int, Sequence[Glyph]]] = []
    for run in runs:
        starts = ((at, part) for part in _forms(run) for at in _found(text, written(part), end))
        for start, glyphs in starts:
            places = range(start, start + len(glyphs))
            if taken.isdisjoint(places):
                taken |= set(places)
                read.append((start, glyphs))
                break
    texts = [written(glyphs) for _, glyphs in read]
    for said, (_, glyphs) in zip(texts, list(read), strict=True):
        again = _found(text, said, text.find("</think>")) if texts.count(said) == 1 else []
        read += [(start, glyphs) for start in again if taken.isdisjoint(range(start, start + len(glyphs)))]
    after = quoted
    for start, glyphs in sorted(read, key=lambda found: found[0]):
        for place, glyph in enumerate(glyphs):
            span = (start + place, start + place + 1)
            yield replace(_gaze(turn, text, span, image, glyph.box, "read"), after=None if place else after)
        after = glyphs[-1].box


def _counting(turn: int, text: str, drawing: Drawing | Scene, view: Box, image: int) -> Iterator[Gaze]:
    """Each digit of a counting looks at its thing: those in a piece of evidence that holds as many, all in view.

    They are counted in the order in which the image's tokens spell them, which nobody has to make out.
    """
    said = _COUNTING.search(text)
    if not said:
        return
    things = [glyph for glyph in drawing.glyphs if glyph.character == COUNTED_GLYPH]
    for place in dict.fromkeys(box for question in drawing.questions for box in question.evidence):
        some = [glyph for glyph in things if holds(place, glyph.box)]
        if len(some) == len(said[1]) and all(holds(view, glyph.box) for glyph in some):
            boxes = tuple(glyph.box for glyph in some)
            for at, box in enumerate(boxes, said.start(1)):
                yield replace(_gaze(turn, text, (at, at + 1), image, box, "read"), among=boxes)
            return


def _naming(turn: int, text: str, drawing: Drawing | Scene, view: Box, image: int) -> Iterator[Gaze]:
    """Each country that is named looks at its flag, when the view shows that once."""
    flags = {mark.name: mark.box for mark in single_marks(drawing.marks) if holds(view, mark.box)}
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


def _found(text: str, wanted: str, end: int) -> list[int]:
    """Where a text stands whole and not in quotes in the first `end` characters of a turn."""
    if len(wanted) < SHORTEST_READ or text.find(wanted, 0, end) < 0:  # a pattern takes longer to compile than to apply
        return []
    return [match.start() for match in re.finditer(rf"(?<![\w.\"]){re.escape(wanted)}(?!\w|\.\d)", text[:end])]


def _gaze(turn: int, text: str, piece: tuple[int, int], image: int, box: Box, kind: Kind = "point") -> Gaze:
    start, end = (len(text[:place].encode()) for place in piece)
    return Gaze(turn=turn, start=start, end=end, image=image, box=box, kind=kind)


def _part(view: Box, box: Sequence[int]) -> Box:
    """The part of the picture that a relative box of a view names."""
    wide, tall = view[2] - view[0], view[3] - view[1]
    x0, y0, x1, y1 = (value / 1000 for value in box)
    return view[0] + x0 * wide, view[1] + y0 * tall, view[0] + x1 * wide, view[1] + y1 * tall
