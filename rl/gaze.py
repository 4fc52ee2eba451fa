"""Where a writer looks: for words that a turn takes from a picture, the part of the picture that they come from.

The generators know what every turn is about. Training asks some heads of two layers to attend there (the loss is minus
the log of their attention on the tokens under that part), so that finding is learned from thousands of pointers and not
from the few digits of a box. The first of the two layers looks at what the words so far are about: a thing at the end
of its name, the box while a turn says where something is, a character that was just read. The second looks at what
comes next, and can start from what the first has found: the side of the box whose number follows, the next character.
Nothing of it is left when the model runs.

Shape letters: T tokens, H heads, G key heads, D head dimension, Q tokens that look, L tokens of a conversation.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveate.models.image import Grid
from foveate.models.tokenizer import TextCodec
from foveate.models.transcript import Transcript
from foveate.rl.oracle_messages import Conversation, single_marks
from foveate.rl.pages import text_runs
from foveate.rl.tasks.scene import Box, Drawing, Glyph, Scene

SHORTEST_READ = 2
"""Characters of a text that is looked for in a turn; shorter ones occur by chance."""
_CALL = re.compile(r'<tool_call>\{"name":"zoom","arguments":(\{.*?\})\}</tool_call>')
_FOUND = re.compile(r"the [^;<]+ (\d+),(\d+),(\d+),(\d+)")
_NUMBERS = re.compile(r'"image":(\d+),"box":\[(\d+),(\d+),(\d+),(\d+)\]|the [^;<]+ (\d+),(\d+),(\d+),(\d+)')
EDGE = 50
"""Least width, in thousandths of a side, of the strip along a side of a box that its number looks at."""
Kind = Literal["point", "side", "read"]
NOUNS = ("number", "receipt", "chart", "table", "panel", "box", "boxes", "row", "column", "and", "under", "Table",
         "Receipt", "Chart", "Panel", "Box")  # fmt: skip
"""What stands before a large letter or number when a text speaks of it."""


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
        found += _reading(turn, text, runs, image, conversation.boxes[image])
        shown += _brings_image(conversation, number)
    return found


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


def _reading(turn: int, text: str, runs: Sequence[Sequence[Glyph]], image: int, view: Box) -> Iterator[Gaze]:
    """Every text of the latest image that the turn writes, character by character; the first time only."""
    whole = '"code"' in text or "</think>" not in text
    end = len(text) if whole else text.find("</think>")
    taken: set[int] = set()
    for run in runs:
        if not (_inside(run[0].box, view) and _inside(run[-1].box, view)):
            continue
        written = "".join(glyph.character for glyph in run)
        amount = written.lstrip("$€")
        start = _find(text, written, end)
        if start < 0 and amount != written:
            start = _find(text, amount, end)
            written = amount
        places = range(start, start + len(written))
        if start < 0 or not taken.isdisjoint(places):
            continue
        taken |= set(places)
        for place, glyph in zip(places, run[-len(written) :], strict=True):
            yield _gaze(turn, text, (place, place + 1), image, glyph.box, "read")


def _find(text: str, written: str, end: int) -> int:
    """Where a text stands whole in the first `end` characters of a turn; -1 when nowhere."""
    if len(written) < SHORTEST_READ:
        return -1
    match = re.search(rf"(?<![\w.]){re.escape(written)}(?!\w|\.\d)", text[:end])
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


def looks(
    drawing: Drawing | Scene, conversation: Conversation, transcript: Transcript, codec: TextCodec, merge_size: int
) -> tuple[Tensor, Tensor]:
    """The pairs [2, P] of a token that looks and a token that it looks at: of the first layer, and of the second."""
    by_kind: dict[Kind, list[Gaze]] = {"point": [], "side": [], "read": []}
    for gaze in gazes(conversation, drawing):
        by_kind[gaze.kind].append(gaze)

    def pairs(kinds: Sequence[Kind], ahead: int) -> Tensor:
        found = [gaze for kind in kinds for gaze in by_kind[kind]]
        return gaze_targets(found, conversation, transcript, codec, merge_size, ahead)

    named = mention_targets(drawing, conversation, transcript, codec, merge_size)
    return torch.cat([named, pairs(["point"], 1), pairs(["read"], 0)], dim=1), pairs(["side", "read"], 1)


def gaze_targets(
    found: Sequence[Gaze],
    conversation: Conversation,
    transcript: Transcript,
    codec: TextCodec,
    merge_size: int,
    ahead: int = 1,
) -> Tensor:
    """The pairs [2, P] that gazes ask for: the token that looks stands `ahead` of the one that the gaze is about."""
    spans = _policy_spans(transcript)
    pairs: list[tuple[int, int]] = []
    for turn, (first, stop) in enumerate(spans):
        ids = transcript.token_ids[first:stop].tolist()
        edges = [0]
        for index in ids:
            edges.append(edges[-1] + _num_bytes(index, codec))
        for gaze in found:
            if gaze.turn != turn:
                continue
            keys = _tokens_under(
                gaze.box, conversation.boxes[gaze.image], transcript.images[gaze.image].grid, merge_size
            )
            offset = transcript.image_starts[gaze.image]
            for place in range(len(ids)):
                if edges[place] < gaze.end and edges[place + 1] > gaze.start:
                    pairs += [(first + place - ahead, offset + key) for key in keys]
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T


def mention_targets(
    drawing: Drawing | Scene, conversation: Conversation, transcript: Transcript, codec: TextCodec, merge_size: int
) -> Tensor:
    """The pairs [2, P] of the tokens that end the name of something in the first image, in whoever's words."""
    said = "".join(map(chr, transcript.token_ids.tolist()))
    pairs: list[tuple[int, int]] = []
    for phrases, box in _nameable(drawing):
        keys = _tokens_under(box, conversation.boxes[0], transcript.images[0].grid, merge_size)
        for phrase in phrases:
            wanted = "".join(map(chr, codec.encode(phrase)))
            start = said.find(wanted)
            while start >= 0:
                pairs += [(start + len(wanted) - 1, transcript.image_starts[0] + key) for key in keys]
                start = said.find(wanted, start + 1)
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T


def _nameable(drawing: Drawing | Scene) -> Iterator[tuple[list[str], Box]]:
    """What can be named in a drawing, in all ways: its marks, and on a page without marks its texts in quotes."""
    for mark in single_marks(drawing.marks):
        kind, _, sign = mark.name.partition(" ")
        spoken = kind in ("letter", "number")
        yield [f" {mark.name}", *(f" {noun} {sign}" for noun in NOUNS if spoken)], mark.box
    if not drawing.marks:
        runs = text_runs(drawing.glyphs)
        written = ["".join(glyph.character for glyph in run) for run in runs]
        for text, run in zip(written, runs, strict=True):
            if written.count(text) == 1:
                box = (run[0].box[0], run[0].box[1], run[-1].box[2], run[-1].box[3])
                yield [f' "{text}"{end}' for end in "?."], box


def _num_bytes(index: int, codec: TextCodec) -> int:
    """Bytes of text that a token stands for; a piece is written as one character for each byte."""
    return len(codec.names[index]) if index in codec.names else len(str(codec.tokenizer.id_to_token(index)))


def _policy_spans(transcript: Transcript) -> list[tuple[int, int]]:
    """First token and end of each turn that the policy wrote."""
    padded = torch.nn.functional.pad(transcript.by_policy_T.int(), (1, 1))
    steps = torch.nonzero(padded.diff())[:, 0].tolist()
    return list(zip(steps[::2], steps[1::2], strict=True))


def _tokens_under(box: Box, view: Box, grid: Grid, merge_size: int) -> list[int]:
    """The merged tokens of a view that a box covers, at least the one under its middle."""
    rows, columns = grid.h // merge_size, grid.w // merge_size
    across, down = columns / (view[2] - view[0]), rows / (view[3] - view[1])

    def covered(low: float, high: float, count: int) -> range:
        first, stop = round(low), round(high)
        if stop <= first:
            first = int((low + high) / 2)
            stop = first + 1
        return range(min(count - 1, max(0, first)), min(count, max(1, stop)))

    ys = covered((box[1] - view[1]) * down, (box[3] - view[1]) * down, rows)
    xs = covered((box[0] - view[0]) * across, (box[2] - view[0]) * across, columns)
    return [y * columns + x for y in ys for x in xs]


def gaze_loss(q_THD: Tensor, k_TGD: Tensor, pairs_2P: Tensor, lengths: Sequence[int]) -> Tensor:
    """Mean over tokens that look, and over the first head of each key head, of -log(attention where they should look).

    One of each: heads that share a key head bring the same values, and what lies under a token needs all of them.
    """
    losses, start = [], 0
    share = q_THD.shape[1] // k_TGD.shape[1]
    for length in lengths:
        mine = pairs_2P[:, (pairs_2P[0] >= start) & (pairs_2P[0] < start + length)] - start
        queries_Q, row_P = mine[0].unique(return_inverse=True)
        if len(queries_Q):
            wanted_QL = torch.zeros(len(queries_Q), length, dtype=torch.bool)
            wanted_QL[row_P, mine[1]] = True
            later_QL = torch.arange(length) > queries_Q[:, None]
            for head in range(0, q_THD.shape[1], share):
                q_QD, k_LD = q_THD[start + queries_Q, head], k_TGD[start : start + length, head // share]
                scores_QL = (q_QD @ k_LD.T).float() * q_THD.shape[-1] ** -0.5
                scores_QL = scores_QL.masked_fill(later_QL, float("-inf"))
                all_Q, there_Q = (
                    s.logsumexp(-1) for s in (scores_QL, scores_QL.masked_fill(~wanted_QL, float("-inf")))
                )
                losses.append(all_Q - there_Q)
        start += length
    return torch.cat(losses).mean() if losses else q_THD.new_zeros((), dtype=torch.float32)
