"""How a layer attends, handed in: training over packed conversations and generation over a cache run the same decoder.

Shape letters: T new tokens, H query heads, G key heads, D head dimension, W width of a cached latent, V of its values.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from foveate.ops import Packing, packed_attention

if TYPE_CHECKING:
    from foveate.models.latent import LatentQueries

Watch = Callable[[int, Tensor, Tensor, Tensor], None]
"""Told the layer, the queries [T, H, D], the keys and the values [T, G, D] of every attention."""


class Attend(Protocol):
    """What a layer's new tokens see."""

    def heads(self, layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        """Attention with keys and values of their own, [T, H, D]."""
        ...

    def latents(self, layer: int, queries: "LatentQueries", latents_TW: Tensor) -> Tensor:
        """Attention with keys and values out of latents, [T, H, V]."""
        ...


class PackedAttend:
    """Each token sees itself and those before it in its packed conversation."""

    def __init__(self, packing: Packing, watch: Watch | None = None, queries: Packing | None = None) -> None:
        """`queries`: of how many last tokens of each conversation; of all unless given."""
        self.packing, self.watch, self.queries = packing, watch, queries

    def heads(self, layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        """See Attend."""
        if self.watch is not None:
            self.watch(layer, q_THD, k_TGD, v_TGD)
        return packed_attention(q_THD, k_TGD, v_TGD, self.packing, causal=True, queries=self.queries)

    def latents(self, layer: int, queries: "LatentQueries", latents_TW: Tensor) -> Tensor:
        """See Attend."""
        k_THD, v_THD = queries.expanded(latents_TW)
        return self.heads(layer, queries.q_THD, k_THD, v_THD)[..., : queries.value_dim]
