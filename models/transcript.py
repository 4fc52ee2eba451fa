"""What has been said, token for token: ids as they were sampled, who wrote each, and the images between them.

Shape letters: T tokens, N patches, P values of a patch, I images, M image tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveate.models.image import Grid
from foveate.models.rope import Span, sequence_positions


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageInput:
    """A picture as the tower takes it."""

    key: str
    """Identity of the pixels: equal keys have equal patches."""
    grid: Grid
    num_tokens: int
    """Tokens that the decoder sees."""
    patches_NP: Tensor
    pad_id: int | None = None
    """The id that stands for it in a transcript, where that differs from an image's."""
    step: float = 1.0
    """Positions from one patch in time to the next."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Transcript:
    """One conversation, or several packed one after another."""

    token_ids: Tensor
    """[T] long; an image stands as its number of image-pad ids."""
    positions_3T: Tensor
    by_policy_T: Tensor
    """True where the policy wrote the token (what a loss may count), False for users, tools, images and templates."""
    images: tuple[ImageInput, ...]
    image_starts: tuple[int, ...]
    """Index of each image's first token."""
    lengths: tuple[int, ...]
    """Tokens of each packed conversation; they sum to T."""

    def __len__(self) -> int:
        """Tokens in all."""
        return len(self.token_ids)


def image_rows(images: Sequence[ImageInput], starts: Sequence[int]) -> Tensor:
    """Index [M] of each image token in a transcript whose images' first tokens stand at `starts`."""
    counts_I = torch.tensor([image.num_tokens for image in images], dtype=torch.long)
    shift_I = torch.tensor(starts, dtype=torch.long) - (counts_I.cumsum(0) - counts_I)
    return torch.arange(int(counts_I.sum())) + shift_I.repeat_interleave(counts_I)


Part = tuple[list[int] | ImageInput, bool]
"""Ids or an image, and whether the policy wrote them."""


def build_transcript(parts: Sequence[Part], *, image_pad_id: int, merge_size: int, in_line: bool = False) -> Transcript:
    """Lay out the parts of one conversation in order; `in_line`, an image's tokens have the positions of text."""
    ids: list[int] = []
    by_policy: list[bool] = []
    images: list[ImageInput] = []
    starts: list[int] = []
    spans: list[int | Span] = []
    for part, written in parts:
        if isinstance(part, ImageInput):
            count = part.num_tokens
            images.append(part)
            starts.append(len(ids))
            ids += [image_pad_id if part.pad_id is None else part.pad_id] * count
            spans.append(count if in_line else Span(part.grid, part.step))
        else:
            count = len(part)
            ids += part
            spans.append(count)
        by_policy += [written] * count
    return Transcript(
        token_ids=torch.tensor(ids, dtype=torch.long),
        positions_3T=sequence_positions(spans, merge_size),
        by_policy_T=torch.tensor(by_policy, dtype=torch.bool),
        images=tuple(images),
        image_starts=tuple(starts),
        lengths=(len(ids),),
    )


def pack(transcripts: Sequence[Transcript]) -> Transcript:
    """Several conversations one after another; none sees another."""
    starts, offset = [], 0
    for transcript in transcripts:
        starts += [start + offset for start in transcript.image_starts]
        offset += len(transcript)
    return Transcript(
        token_ids=torch.cat([t.token_ids for t in transcripts]),
        positions_3T=torch.cat([t.positions_3T for t in transcripts], dim=1),
        by_policy_T=torch.cat([t.by_policy_T for t in transcripts]),
        images=tuple(image for t in transcripts for image in t.images),
        image_starts=tuple(starts),
        lengths=tuple(length for t in transcripts for length in t.lengths),
    )


def without_patches(transcript: Transcript) -> Transcript:
    """The same with images of which only the grids are left."""
    none = torch.zeros(0)
    return replace(transcript, images=tuple(replace(image, patches_NP=none) for image in transcript.images))
