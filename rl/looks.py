"""What attention is asked for: which head of which token looks at which image token.

Three layers in the middle of the decoder are watched, so that finding and reading are learned from thousands of
pointers and not from the few digits of a box. The first looks at what the words so far are about: a thing at the end of
its name, the box while a turn says where something is, a character that was just read. The second looks at what comes
next, and can start from what the first has found: the side of the box whose number follows, the next character. The
third looks at the same again, and can also start from where the token before has looked: of two places that hold what
was just read, the right one lies next to what was read before it.

A merged token spells about three characters. In all of them the first query head of key head s looks when the character
is the s-th of its token, and the others rest on the first token of the conversation: which head looks tells the place,
and what key head s brings is always the s-th character. That can be asked of every image token (`brought_loss`), not
only of those that are read. The other query heads are free. Nothing of it is left when the model runs.

Shape letters: T tokens, H heads, G key heads, D head dimension, P looks, Q tokens that look, L tokens of a
conversation, M image tokens, S characters of a merged token, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.models.config import DecoderConfig, ThinkerConfig
from foveate.models.decoder import Decoder, DecoderBlock
from foveate.models.image import Grid
from foveate.models.tokenizer import TextCodec
from foveate.models.transcript import Transcript
from foveate.rl.gaze import Gaze, gazes
from foveate.rl.oracle_messages import Conversation, single_marks
from foveate.rl.pages import CHARACTERS, text_runs, written
from foveate.rl.spelling import Spelling, Spot, text_of
from foveate.rl.tasks.scene import Box, Drawing, Scene

NOUNS = ("number", "receipt", "chart", "table", "panel", "box", "boxes", "row", "column", "and", "under", "Table",
         "Receipt", "Chart", "Panel", "Box")  # fmt: skip
"""What stands before a large letter or number when a text speaks of it."""
RESTING = 0
"""The key of a look that rests, in whichever conversation of a pack: the first token of its own is meant."""
REST_WEIGHT = 0.3
"""Of the heads that rest, beside those that look."""


class Look(NamedTuple):
    """One head of a token and where it looks, as indices of the transcript."""

    token: int
    head: int
    key: int


class Reading(NamedTuple):
    """A token whose heads look at a letter of an image, wherever that is spelled; at none when `letter` is NOWHERE."""

    token: int
    image: int
    letter: int
    among: tuple[int, ...] = ()
    """Letters that are counted: meant is the one that is spelled as many places behind the first as `letter` stands
    behind the first of these."""


NOWHERE = -1


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What one layer is asked for: looks whose places are known, and letters that the tower has yet to place."""

    looks: tuple[Look, ...] = ()
    readings: tuple[Reading, ...] = ()

    def shifted(self, tokens: int, images: int) -> "Targets":
        """The same behind so many tokens and images of other conversations in a pack."""
        return Targets(
            looks=tuple(Look(token + tokens, head, key + tokens) for token, head, key in self.looks),
            readings=tuple(
                reading._replace(token=reading.token + tokens, image=reading.image + images)
                for reading in self.readings
            ),
        )


def aimed(targets: Sequence[Targets], spelling: Spelling, rows: Sequence[slice], heads: Sequence[int]) -> Tensor:
    """All looks [3, P] (token, head, key) of a pack whose images' tokens stand in `rows`.

    The head of a letter's place looks at the letter and the others rest, at their conversation's first token; of a
    letter that lies behind its token's last head nothing is asked.
    """
    keys = [key for row in rows for key in range(row.start, row.stop)]
    some = [look for target in targets for look in target.looks]
    for reading in (reading for target in targets for reading in target.readings):
        spot = _spot(reading, spelling)
        if spot is None or spot.place < len(heads):
            some += [
                Look(reading.token, head, keys[spot.token] if spot and place == spot.place else RESTING)
                for place, head in enumerate(heads)
            ]
    return torch.tensor(some, dtype=torch.long).reshape(-1, 3).T


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
    second: list[Look] = []
    for gaze, tokens in found:
        if gaze.kind != "read":
            pointing = [look for token in tokens for look in places.pointing(token - 1, gaze.image, gaze.box)]
            (first if gaze.kind == "point" else second).extend(pointing)
    read = [(gaze, tokens[0]) for gaze, tokens in found if gaze.kind == "read" and tokens]
    just, coming = _reading(read, places)
    return Targets(looks=tuple(first), readings=tuple(just)), Targets(looks=tuple(second), readings=tuple(coming))


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

    def pointing(self, token: int, image: int, box: Box) -> Iterator[Look]:
        """Every watched head looks at all that a box covers."""
        grid, view = self.transcript.images[image].grid, self.boxes[image]
        for key in _tokens_under(box, view, grid, self.config.vision.merge_size):
            for head in self.watched:
                yield Look(token, head, self.transcript.image_starts[image] + key)


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


def _mentions(drawing: Drawing | Scene, places: Places, transcript: Transcript, codec: TextCodec) -> Iterator[Look]:
    """The tokens that end the name of something in the first image, in whoever's words, look at it."""
    said = "".join(map(chr, transcript.token_ids.tolist()))
    for phrases, box in _nameable(drawing):
        for phrase in phrases:
            wanted = "".join(map(chr, codec.encode(phrase)))
            start = said.find(wanted)
            while start >= 0:
                yield from places.pointing(start + len(wanted) - 1, 0, box)
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


def gaze_loss(q_THD: Tensor, k_TGD: Tensor, looks_3P: Tensor, lengths: Sequence[int]) -> Tensor:
    """Mean over heads that look of -log(attention where they should look), plus REST_WEIGHT that of those that rest.

    To rest is to look at the conversation's first token; a key before that, as RESTING is in a pack, means it too.
    """
    looking: list[Tensor] = []
    resting: list[Tensor] = []
    start = 0
    for length in lengths:
        mine_3P = looks_3P[:, (looks_3P[0] >= start) & (looks_3P[0] < start + length)]
        if mine_3P.shape[1]:
            own = slice(start, start + length)
            looked_P, rested_P = _missed(q_THD[own], k_TGD[own], mine_3P - torch.tensor([[start], [0], [start]]))
            looking.append(looked_P)
            resting.append(rested_P)
        start += length
    means = [torch.cat(some).mean() for some in (looking, resting) if sum(map(len, some))]
    weights = (1.0, REST_WEIGHT) if len(means) == 2 else (1.0,)
    return sum((w * m for w, m in zip(weights, means, strict=True)), q_THD.new_zeros((), dtype=torch.float32))


def _missed(q_LHD: Tensor, k_LGD: Tensor, looks_3P: Tensor) -> tuple[Tensor, Tensor]:
    """-log of the attention on the wanted keys, for each head of a token of one conversation that looks or rests."""
    queries_Q, row_P = looks_3P[0].unique(return_inverse=True)
    heads_H, column_P = looks_3P[1].unique(return_inverse=True)
    wanted_HQL = torch.zeros(len(heads_H), len(queries_Q), len(k_LGD), dtype=torch.bool)
    wanted_HQL[column_P, row_P, looks_3P[2].clamp_min(0)] = True
    asked_HQ, rests_HQ = wanted_HQL.any(-1), wanted_HQL[:, :, 0].clone()
    wanted_HQL[:, :, 0] |= ~asked_HQ
    later_QL = torch.arange(len(k_LGD)) > queries_Q[:, None]
    q_HQD = q_LHD[queries_Q.to(q_LHD.device)][:, heads_H.to(q_LHD.device)].transpose(0, 1)
    k_HLD = k_LGD[:, (heads_H // (q_LHD.shape[1] // k_LGD.shape[1])).to(k_LGD.device)].transpose(0, 1)
    scores_HQL = (q_HQD @ k_HLD.transpose(1, 2)).float() * q_HQD.shape[-1] ** -0.5
    scores_HQL = scores_HQL.masked_fill(later_QL.to(scores_HQL.device), float("-inf"))
    there_HQ = scores_HQL.masked_fill(~wanted_HQL.to(scores_HQL.device), float("-inf")).logsumexp(-1)
    missed_P = (scores_HQL.logsumexp(-1) - there_HQ).flatten()
    looked, rested = (torch.nonzero(some_HQ.flatten())[:, 0] for some_HQ in (asked_HQ & ~rests_HQ, rests_HQ))
    return missed_P[looked.to(missed_P.device)], missed_P[rested.to(missed_P.device)]


def characters_as_tokens(codec: TextCodec) -> Tensor:
    """The token of each class of character, -100 where it has none of its own (class 0, nothing, and "€")."""
    spelled = [codec.encode(character) for character in CHARACTERS]
    return torch.tensor([-100, *(ids[0] if len(ids) == 1 else -100 for ids in spelled)])


def brought_loss(
    decoder: Decoder, layer: int, v_MGD: Tensor, spelled_MS: Tensor, token_of_class: Tensor
) -> tuple[Tensor, float | None]:
    """Cross-entropy of the s-th character of image tokens, read from what head s of a layer would bring of each.

    `spelled_MS` holds classes of characters as Spelling does. Returns also the share that is right, None without any
    character.
    """
    block = cast(DecoderBlock, decoder.blocks[layer])
    proj_EHD = block.attn.proj.weight.unflatten(1, (decoder.config.num_heads, -1))
    brought, wanted = [], []
    for place, head in enumerate(watched_heads(decoder.config)):
        tokens_M = token_of_class[spelled_MS[:, place].clamp_min(0)]
        rows = torch.nonzero(tokens_M >= 0)[:, 0]
        brought.append(v_MGD[rows.to(v_MGD.device), place] @ proj_EHD[:, head].T)
        wanted.append(tokens_M[rows])
    wanted_N = torch.cat(wanted).to(v_MGD.device)
    if not len(wanted_N):
        return v_MGD.new_zeros((), dtype=torch.float32), None
    logits_NV = decoder.head(decoder.norm(torch.cat(brought))).float()
    return F.cross_entropy(logits_NV, wanted_N), float((logits_NV.argmax(-1) == wanted_N).float().mean())
