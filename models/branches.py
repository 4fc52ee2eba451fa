"""Packed conversations that begin alike: what they share is computed once.

Samples of one prompt have its pictures and its question in common, some of them also what was said and seen after it.
What a token becomes depends on it and on those before it alone, so equal beginnings come to equal states. Each token of
a shared beginning is computed once, its query too; keys and values are handed to every conversation that it begins, and
gradients of those who share it add up.

Shape letters: P tokens of packed conversations, T tokens that are computed, D width, H query heads, G key heads.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from foveate.models.attend import PackedAttend
from foveate.models.prefix import common_length, token_keys
from foveate.models.seen import SeenImages
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript
from foveate.ops import Packing


@dataclass(frozen=True, kw_only=True, eq=False)
class Branches:
    """Which tokens of packed conversations are computed."""

    rows_P: Tensor
    """The computed token that each token equals."""
    places_T: Tensor
    """Where each computed token stands first."""
    own: tuple[int, ...]
    """How many tokens of each conversation are computed for it, its last ones."""

    @classmethod
    def of(cls, packed: Transcript) -> "Branches":
        """A conversation shares what it begins with as another one before it, as much as can be."""
        keys, rows, places, own = token_keys(packed), list[int](), list[int](), list[int]()
        spans = list(pairwise(accumulate(packed.lengths, initial=0)))
        parts = [keys[start:end] for start, end in spans]
        for idx, (start, end) in enumerate(spans):
            before = (common_length(part, parts[idx]) for part in parts[:idx])
            shared, source = max(zip(before, (first for first, _ in spans), strict=False), default=(0, start))
            own.append(end - start - shared)
            rows += [*rows[source : source + shared], *range(len(places), len(places) + own[-1])]
            places += range(start + shared, end)
        return cls(rows_P=torch.tensor(rows), places_T=torch.tensor(places), own=tuple(own))


class BranchAttend(PackedAttend):
    """Each token sees itself and those before it in its conversation, also those that are another's."""

    def __init__(self, branches: Branches, packing: Packing, device: torch.device) -> None:
        super().__init__(packing, queries=Packing(list(branches.own)))
        self.rows_P = branches.rows_P.to(device)

    def heads(self, layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        """See Attend."""
        k_PGD, v_PGD = (x.index_select(0, self.rows_P) for x in (k_TGD, v_TGD))
        return super().heads(layer, q_THD, k_PGD, v_PGD)


def hidden_states(thinker: Thinker, packed: Transcript, see: SeenImages | None = None) -> Tensor:
    """Hidden states [P, D] before the head, as `Thinker.hidden` gives them; `see` if the tower need not run."""
    device, branches = thinker.decoder.embed.weight.device, Branches.of(packed)
    rows = branches.rows_P.tolist()
    first = branches.places_T[branches.rows_P].tolist()
    own = [
        (rows[start], image)
        for start, image in zip(packed.image_starts, packed.images, strict=True)
        if first[start] == start
    ]
    images, starts = [image for _, image in own], [row for row, _ in own]
    seen = see(images, thinker) if see is not None and images else None
    x_TD = thinker.embed(packed.token_ids[branches.places_T], images, starts, seen)
    attend = BranchAttend(branches, Packing(list(packed.lengths)), device)
    hidden_TD, _ = thinker.decoder(x_TD, packed.positions_3T[:, branches.places_T], attend)
    states_PD: Tensor = hidden_TD.index_select(0, attend.rows_P)
    return states_PD
