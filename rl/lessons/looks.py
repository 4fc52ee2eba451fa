"""What attention is asked for: which head of which token looks at which image token.

Three layers in the middle of the decoder are watched, so that finding and reading are learned from thousands of
pointers and not from the few digits of a box. The first looks at what the words so far are about: a thing at the end of
its name, the box while a turn says where something is, a character that was just read. The second looks at what comes
next, and can start from what the first has found: the side of the box whose number follows, the next character. The
third looks at the same again, and can also start from where the token before has looked: of two places that hold what
was just read, the right one lies next to what was read before it.

A merged token spells about three characters. In all of them the first query head of key head s looks when the character
is the s-th of its token, and the others rest on the first token of the conversation: which head looks tells the place,
and what key head s brings is always the s-th character. That can be asked of every image token, not only of those
that are read. The other query heads are free. Nothing of it is left when the model runs. The losses are in
foveate.rl.lessons.look_losses.

Shape letters: P looks, M image tokens, S characters of a merged token.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.models.config import DecoderConfig, ThinkerConfig
from foveate.models.image import Grid
from foveate.models.tokenizer import TextCodec
from foveate.models.transcript import Transcript
from foveate.rl.lessons.gaze import Gaze, gazes
from foveate.rl.lessons.oracle_messages import Conversation, single_marks
from foveate.rl.lessons.pages import text_runs, written
from foveate.rl.lessons.spelling import Spelling, Spot, text_of
from foveate.rl.tasks.scene import Box, Drawing, Scene

NOUNS = ("number", "receipt", "chart", "table", "panel", "box", "boxes", "row", "column", "and", "under", "Table",
         "Receipt", "Chart", "Panel", "Box")  # fmt: skip
"""What stands before a large letter or number when a text speaks of it."""
RESTING = 0
"""The key of a look that rests, in whichever conversation of a pack: the first token of its own is meant."""


class Reading(NamedTuple):
    """A token whose heads look at a letter of an image, wherever that is spelled; at none when `letter` is NOWHERE."""

    token: int
    image: int
    letter: int
    among: tuple[int, ...] = ()
    """Letters that are counted: meant is the one that is spelled as many places behind the first as `letter` stands
    behind the first of these."""


NOWHERE = -1


def _none() -> Tensor:
    return torch.zeros(3, 0, dtype=torch.long)


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What one layer is asked for: looks whose places are known, and letters that the tower has yet to place."""

    looks_3P: Tensor = field(default_factory=_none)
    """Token, head and key, as indices of the transcript."""
    readings: tuple[Reading, ...] = ()

    def shifted(self, tokens: int, images: int) -> "Targets":
        """The same behind so many tokens and images of other conversations in a pack."""
        return Targets(
            looks_3P=self.looks_3P + torch.tensor([[tokens], [0], [tokens]]),
            readings=tuple(
                reading._replace(token=reading.token + tokens, image=reading.image + images)
                for reading in self.readings
            ),
        )

    @classmethod
    def joined(cls, some: Iterable["Targets"]) -> "Targets":
        """All that conversations of one pack are asked for."""
        some = tuple(some)
        return cls(
            looks_3P=torch.cat([_none(), *(targets.looks_3P for targets in some)], dim=1),
            readings=tuple(reading for targets in some for reading in targets.readings),
        )


def aimed(targets: Targets, spelling: Spelling, rows_M: Tensor, heads: Sequence[int]) -> Tensor:
    """All looks [3, P] (token, head, key) of a pack whose image tokens stand in `rows_M`.

    The head of a letter's place looks at the letter and the others rest, at their conversation's first token; of a
    letter that lies behind its token's last head nothing is asked.
    """
    keys = rows_M.tolist()
    some: list[tuple[int, int, int]] = []
    for reading in targets.readings:
        spot = _spot(reading, spelling)
        if spot is None or spot.place < len(heads):
            some += [
                (reading.token, head, keys[spot.token] if spot and place == spot.place else RESTING)
                for place, head in enumerate(heads)
            ]
    return torch.cat([targets.looks_3P, torch.tensor(some, dtype=torch.long).reshape(-1, 3).T], dim=1)


def _spot(reading: Reading, spelling: Spelling) -> Spot | None:
    """Where the letter of a reading is spelled; None for one that is nowhere."""
    if reading.letter == NOWHERE:
        return None
    spots = spelling.spots[reading.image]
    if reading.among:
        return sorted(spots[letter] for letter in reading.among)[reading.among.index(reading.letter)]
    return spots[reading.letter]


def watched_heads(config: DecoderConfig) -> range:
    """The first query head of each key head: those that share a key head bring the same values."""
    return range(0, config.num_heads, config.num_heads // config.num_kv_heads)


def looks(
    drawing: Drawing | Scene,
    conversation: Conversation,
    transcript: Transcript,
    codec: TextCodec,
    config: ThinkerConfig,
) -> tuple[Targets, Targets]:
    """What a conversation asks of the first layer, and of the second."""
    places = Places(drawing, conversation, transcript, config)
    turns = _written_tokens(transcript, codec)
    found = [
        (gaze, [token for token, start, end in turns[gaze.turn] if start < gaze.end and end > gaze.start])
        for gaze in gazes(conversation, drawing)
    ]
    first = [*_mentions(drawing, places, transcript, codec)]
    second: list[Tensor] = []
    for gaze, tokens in found:
        if gaze.kind != "read":
            pointing_3P = places.pointing([token - 1 for token in tokens], gaze.image, gaze.box)
            (first if gaze.kind == "point" else second).append(pointing_3P)
    read = [(gaze, tokens[0]) for gaze, tokens in found if gaze.kind == "read" and tokens]
    just, coming = _reading(read, places)
    return (
        Targets(looks_3P=torch.cat([_none(), *first], dim=1), readings=tuple(just)),
        Targets(looks_3P=torch.cat([_none(), *second], dim=1), readings=tuple(coming)),
    )


def _reading(read: Sequence[tuple[Gaze, int]], places: "Places") -> tuple[list[Reading], list[Reading]]:
    """What tokens that read have just read, and what they read next.

    A space lies nowhere: at one the first layer still looks at the character before it, and before one the second
    rests, as it does where a text has ended. Before a text begins the first layer looks at the end of the one before.
    """
    nexts: dict[int, Reading] = {}
    lasts: dict[int, Reading | None] = {}
    anchors: dict[int, Reading] = {}
    last = None
    for gaze, token in read:
        here = places.letter(token, gaze.image, gaze.box, gaze.among)
        nexts.setdefault(token - 1, (here or Reading(0, 0, NOWHERE))._replace(token=token - 1))
        anchor = places.letter(token - 1, gaze.image, gaze.after) if gaze.after else None
        if anchor and token - 1 not in lasts:
            anchors[token - 1] = anchor
        last = here or (last and last._replace(token=token))
        lasts[token] = last
    ends = {token: Reading(token, 0, NOWHERE) for token in lasts if token + 1 not in lasts}
    return [reading for reading in (lasts | anchors).values() if reading], [*(ends | nexts).values()]


class Places:
    """Where the image tokens of a conversation are, and what they spell."""

    def __init__(
        self, drawing: Drawing | Scene, conversation: Conversation, transcript: Transcript, config: ThinkerConfig
    ) -> None:
        self.boxes, self.transcript, self.config = conversation.boxes, transcript, config
        self.watched = watched_heads(config.decoder)
        self.letters: list[dict[Box, int]] = []
        for box, image in zip(self.boxes, transcript.images, strict=True):
            _, shown = text_of(drawing.glyphs, box, image.grid, config.vision)
            self.letters.append({glyph.box: index for index, glyph in enumerate(shown)})

    def letter(self, token: int, image: int, box: Box, among: Sequence[Box] = ()) -> Reading | None:
        """A token that reads a character of an image, or one of those `among` which it counts; None for a space."""
        letters = self.letters[image]
        index = letters.get(box)
        return None if index is None else Reading(token, image, index, tuple(letters[other] for other in among))

    def pointing(self, tokens: Sequence[int], image: int, box: Box) -> Tensor:
        """Looks [3, P]: every watched head of each token looks at all that a box covers."""
        grid, view = self.transcript.images[image].grid, self.boxes[image]
        under = torch.tensor(_tokens_under(box, view, grid, self.config.vision.merge_size))
        keys = under + self.transcript.image_starts[image]
        return torch.cartesian_prod(torch.tensor(tokens, dtype=torch.long), torch.tensor(self.watched), keys).T


def _written_tokens(transcript: Transcript, codec: TextCodec) -> list[list[tuple[int, int, int]]]:
    """For each turn of the policy its tokens, each with the bytes of the turn's text that it is written with."""
    turns = []
    for first, stop in _policy_spans(transcript):
        lengths = [_num_bytes(index, codec) for index in transcript.token_ids[first:stop].tolist()]
        ends = list(accumulate(lengths))
        turns.append(
            [(first + n, end - length, end) for n, (end, length) in enumerate(zip(ends, lengths, strict=True))]
        )
    return turns


def _mentions(drawing: Drawing | Scene, places: Places, transcript: Transcript, codec: TextCodec) -> Iterator[Tensor]:
    """The tokens that end the name of something in the first image, in whoever's words, look at it."""
    said = "".join(map(chr, transcript.token_ids.tolist()))
    for phrases, box in _nameable(drawing):
        for phrase in phrases:
            wanted = "".join(map(chr, codec.encode(phrase)))
            start = said.find(wanted)
            while start >= 0:
                yield places.pointing([start + len(wanted) - 1], 0, box)
                start = said.find(wanted, start + 1)


def _nameable(drawing: Drawing | Scene) -> Iterator[tuple[list[str], Box]]:
    """What can be named in a drawing, in all ways: its marks, and on a page without marks its texts in quotes."""
    for mark in single_marks(drawing.marks):
        kind, _, sign = mark.name.partition(" ")
        spoken = kind in ("letter", "number")
        yield [f" {mark.name}", *(f" {noun} {sign}" for noun in NOUNS if spoken)], mark.box
    if not drawing.marks:
        runs = text_runs(drawing.glyphs)
        texts = list(map(written, runs))
        for text, run in zip(texts, runs, strict=True):
            if texts.count(text) == 1:
                box = (run[0].box[0], run[0].box[1], run[-1].box[2], run[-1].box[3])
                yield [f' "{text}"{end}' for end in "?."], box


def _num_bytes(index: int, codec: TextCodec) -> int:
    """Bytes of text that a token stands for; a piece is written as one character for each byte."""
    return len(codec.names[index]) if index in codec.names else len(str(codec.tokenizer.id_to_token(index)))


def _policy_spans(transcript: Transcript) -> list[tuple[int, int]]:
    """First token and end of each turn that the policy wrote."""
    padded = F.pad(transcript.by_policy_T.int(), (1, 1))
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
