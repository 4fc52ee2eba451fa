"""Packed conversations that begin alike: what neighbours share is computed once.

Samples of one prompt have its pictures and its question in common, which are a good part of their tokens. What a token
becomes depends on it and on those before it alone, so equal beginnings come to equal states. Attention gets back the
whole conversations; all else sees each token of a shared beginning once, and gradients of those who share it add up.

Shape letters: P tokens of packed conversations, T tokens that are computed, D width, H query heads, G key heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.models.attend import PackedAttend
from foveate.models.prefix import common_length, token_keys
from foveate.models.seen import SeenImages
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript
from foveate.ops import Packing, take_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Branches:
    """Which tokens of packed conversations are computed."""

    rows_P: Tensor
    """The computed token that each token equals."""
    places_T: Tensor
    """Where each computed token stands first."""

    @classmethod
    def of(cls, packed: Transcript) -> "Branches":
        """A conversation shares with the one before it what both begin with."""
        keys, rows, places = token_keys(packed), list[int](), list[int]()
        before = start = 0
        for length in packed.lengths:
            shared = common_length(keys[before:start], keys[start : start + length])
            rows += rows[before : before + shared]
            rows += range(len(places), len(places) + length - shared)
            places += range(start + shared, start + length)
            before, start = start, start + length
        return cls(rows_P=torch.tensor(rows), places_T=torch.tensor(places))


class BranchAttend(PackedAttend):
    """Each token sees itself and those before it in its conversation, also those that are another's."""

    def __init__(self, branches: Branches, packing: Packing, device: torch.device) -> None:
        super().__init__(packing)
        self.rows_P, self.places_T = branches.rows_P.to(device), branches.places_T.to(device)

    def heads(self, layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        """See Attend."""
        q_PHD, k_PGD, v_PGD = (x.index_select(0, self.rows_P) for x in (q_THD, k_TGD, v_TGD))
        return take_rows(super().heads(layer, q_PHD, k_PGD, v_PGD), self.places_T)


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
