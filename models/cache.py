"""The key-value cache: one slot per conversation, kept across its turns.

A slot remembers which tokens and images it holds, so that the next turn prefills only what is new.

Shape letters: L layers, S slots, C capacity in tokens, G key heads, D head dimension, T new tokens, H query heads, W
width of a latent with its key that turns, R its rank.
"""

import mmap
import sys
from contextlib import suppress
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foveate.models.config import DecoderConfig
from foveate.ops import decode_attention, prefix_attention

if TYPE_CHECKING:
    from foveate.models.latent import LatentQueries

STEP = 512
"""Tokens that a GPU's cache grows by, or more."""
UNRESERVED = 0x4000
"""Linux's MAP_NORESERVE, which has a name in Python from 3.13 on: room counts when it is written to."""


class KVCache:
    """Keys and values of `num_slots` conversations, or the latents they come out of; grows when one needs more room.

    Indexed [L, S, C, G, D], but what a head reads lies together in memory: each head of a slot has its tokens in a row.
    """

    def __init__(self, config: DecoderConfig, num_slots: int, like: Tensor, capacity: int = 1024) -> None:
        """Of the dtype and on the device of `like`; on a GPU, where empty room costs, slots come as they are used."""
        heads, width = config.num_kv_heads, config.head_dim
        if config.latent is not None:
            heads, width = 1, config.latent.rank + config.head_dim
        shape = (config.num_layers, num_slots if like.device.type == "cpu" else 1, heads, capacity, width)
        self.k = _zeros(shape, like).transpose(2, 3)
        self.v = _zeros(shape, like).transpose(2, 3) if config.latent is None else like.new_zeros((0,) * 5)
        self.lengths = [0] * num_slots

    @property
    def num_slots(self) -> int:
        """Of those there are by now."""
        return min(x.shape[1] for x in (self.k, self.v) if x.numel())  # fewer where there was no room for both

    def reserve(self, num_tokens: int, slot: int = 0) -> None:
        """Make all slots up to `slot`, or more, able to hold `num_tokens`.

        Raises MemoryError, or torch's own on a GPU, where there is no such room.
        """
        slots, capacity = self.num_slots, min(x.shape[2] for x in (self.k, self.v) if x.numel())
        if num_tokens <= capacity and slot < slots:
            return
        if num_tokens > capacity:  # on a GPU no more than is asked for, in steps
            capacity = max(num_tokens, 2 * capacity) if self.k.device.type == "cpu" else -(-num_tokens // STEP) * STEP
        slots = max(slots, slot + 1)
        self.k = self._grown(self.k, slots, capacity)  # one after the other: a GPU holds both meanwhile
        if self.v.numel():
            self.v = self._grown(self.v, slots, capacity)

    def _grown(self, x_LSCGD: Tensor, slots: int, capacity: int) -> Tensor:
        """What is held, in a larger room."""
        layers, before, room_before, heads, width = x_LSCGD.shape
        if before >= slots and room_before >= capacity:
            return x_LSCGD  # where there was room for this one alone
        room = _zeros((layers, slots, heads, capacity, width), x_LSCGD).transpose(2, 3)
        for slot, held in enumerate(self.lengths[:before]):
            room[:, slot, :held] = x_LSCGD[:, slot, :held]
        return room

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        """Let `target` begin as `source` does. Raises what `reserve` does."""
        self.reserve(num_tokens, target)
        for x in (self.k, self.v):
            if x.numel():
                x[:, target, :num_tokens] = x[:, source, :num_tokens]
        self.lengths[target] = num_tokens


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros; of the processor's memory, pages come when they are first written, so that empty room costs nothing."""
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    num_bytes = prod(shape) * like.itemsize
    try:
        return torch.frombuffer(_room(num_bytes), dtype=like.dtype).view(shape)
    except OSError as error:
        raise MemoryError(
            f"the system gives no room of {num_bytes:,} bytes for the cache ({error.strerror}); "
            "wanted fewer conversations at once, or shorter ones"
        ) from error


def _room(num_bytes: int) -> mmap.mmap:
    """Memory that is mapped and not yet taken; in small pages, since a large one would be taken for a few tokens."""
    if sys.platform != "linux":
        return mmap.mmap(-1, num_bytes)
    room = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | UNRESERVED)
    with suppress(OSError):  # a kernel without large pages
        room.madvise(mmap.MADV_NOHUGEPAGE)
    return room


class CachedStep:
    """One forward pass over a cache: `counts[i]` new tokens for `slots[i]`, packed in that order. See Attend."""

    def __init__(self, cache: KVCache, slots: list[int], counts: list[int]) -> None:
        self.cache, self.slots, self.counts = cache, slots, counts
        self.past = [cache.lengths[slot] for slot in slots]
        cache.reserve(max(past + count for past, count in zip(self.past, counts, strict=True)))
        self.decoding = all(count == 1 for count in counts)
        if self.decoding:
            self.slots_B = torch.tensor(slots, device=cache.k.device)
            self.past_B = torch.tensor(self.past, device=cache.k.device)

    def heads(self, layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        """Store the new keys and values and attend over each slot's whole past."""
        k_SCGD, v_SCGD = self.cache.k[layer], self.cache.v[layer]
        if self.decoding:
            k_SCGD[self.slots_B, self.past_B] = k_TGD
            v_SCGD[self.slots_B, self.past_B] = v_TGD
            return decode_attention(q_THD, k_SCGD, v_SCGD, self.slots_B, self.past_B + 1, max(self.past) + 1)
        outputs = []
        parts = zip(*(x.split(self.counts) for x in (q_THD, k_TGD, v_TGD)), strict=True)
        for slot, past, (q, k, v) in zip(self.slots, self.past, parts, strict=True):
            end = past + len(q)
            k_SCGD[slot, past:end] = k
            v_SCGD[slot, past:end] = v
            outputs.append(prefix_attention(q, k_SCGD[slot, :end], v_SCGD[slot, :end]))
        return torch.cat(outputs)

    def latents(self, layer: int, queries: "LatentQueries", latents_TW: Tensor) -> Tensor:
        """As `heads`, of latents: what is new is compared with them when single tokens come, else they are expanded."""
        latents_SCGW, rank = self.cache.k[layer], queries.rank
        if self.decoding:
            latents_SCGW[self.slots_B, self.past_B, 0] = latents_TW
            out_THR = decode_attention(
                queries.absorbed(), latents_SCGW, latents_SCGW[..., :rank], self.slots_B, self.past_B + 1,
                max(self.past) + 1, queries.scale,
            )  # fmt: skip
            return queries.values(out_THR)
        outputs = []
        parts = zip(queries.q_THD.split(self.counts), latents_TW.split(self.counts), strict=True)
        for slot, past, (q, new) in zip(self.slots, self.past, parts, strict=True):
            end = past + len(q)
            latents_SCGW[slot, past:end, 0] = new
            outputs.append(prefix_attention(q, *queries.expanded(latents_SCGW[slot, :end, 0])))
        return torch.cat(outputs)[..., : queries.value_dim]

    def finish(self) -> None:
        """Count the new tokens as held; call after every layer has attended."""
        for slot, past, count in zip(self.slots, self.past, self.counts, strict=True):
            self.cache.lengths[slot] = past + count
