"""The key-value cache: one slot per conversation, kept across its turns.

A slot remembers which tokens and images it holds, so that the next turn prefills only what is new.

Shape letters: L layers, S slots, C capacity in tokens, G key heads, D head dimension, T new tokens, H query heads, B
batch.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from foveate.models.config import DecoderConfig
from foveate.ops import decode_attention


class KVCache:
    """Keys and values of `num_slots` conversations; grows when one needs more room."""

    def __init__(self, config: DecoderConfig, num_slots: int, like: Tensor, capacity: int = 1024) -> None:
        """Of the dtype and on the device of `like`."""
        shape = (config.num_layers, num_slots, capacity, config.num_kv_heads, config.head_dim)
        self.k = like.new_zeros(shape)
        self.v = like.new_zeros(shape)
        self.lengths = [0] * num_slots

    def reserve(self, num_tokens: int) -> None:
        """Make every slot able to hold `num_tokens`."""
        capacity = self.k.shape[2]
        if num_tokens <= capacity:
            return
        extra = max(num_tokens, 2 * capacity) - capacity
        self.k, self.v = (torch.nn.functional.pad(x, (0, 0, 0, 0, 0, extra)) for x in (self.k, self.v))

    def copy_prefix(self, source: int, target: int, num_tokens: int) -> None:
        """Let `target` begin as `source` does."""
        for x in (self.k, self.v):
            x[:, target, :num_tokens] = x[:, source, :num_tokens]
        self.lengths[target] = num_tokens


class CachedStep:
    """One forward pass over a cache: `counts[i]` new tokens for `slots[i]`, packed in that order."""

    def __init__(self, cache: KVCache, slots: list[int], counts: list[int]) -> None:
        self.cache, self.slots, self.counts = cache, slots, counts
        self.past = [cache.lengths[slot] for slot in slots]
        cache.reserve(max(past + count for past, count in zip(self.past, counts, strict=True)))
        self.decoding = all(count == 1 for count in counts)
        if self.decoding:
            self.slots_B = torch.tensor(slots, device=cache.k.device)
            self.past_B = torch.tensor(self.past, device=cache.k.device)

    def attend(self, layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        """Store the new keys and values and attend over each slot's whole past."""
        return (self._decode if self.decoding else self._prefill)(layer, q_THD, k_TGD, v_TGD)

    def _decode(self, layer: int, q_BHD: Tensor, k_BGD: Tensor, v_BGD: Tensor) -> Tensor:
        k_SCGD, v_SCGD = self.cache.k[layer], self.cache.v[layer]
        k_SCGD[self.slots_B, self.past_B] = k_BGD
        v_SCGD[self.slots_B, self.past_B] = v_BGD
        return decode_attention(q_BHD, k_SCGD, v_SCGD, self.slots_B, self.past_B + 1, max(self.past) + 1)

    def _prefill(self, layer: int, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
        outputs = []
        parts = zip(*(x.split(self.counts) for x in (q_THD, k_TGD, v_TGD)), strict=True)
        for slot, past, (q, k, v) in zip(self.slots, self.past, parts, strict=True):
            end = past + len(q)
            self.cache.k[layer, slot, past:end] = k
            self.cache.v[layer, slot, past:end] = v
            k_all, v_all = (x[layer, slot, :end].transpose(0, 1) for x in (self.cache.k, self.cache.v))
            mask = torch.ones(len(q), end, dtype=torch.bool, device=q.device).tril(past) if past else None
            out_HTD = scaled_dot_product_attention(
                q.transpose(0, 1)[None], k_all[None], v_all[None], attn_mask=mask, is_causal=not past, enable_gqa=True
            )[0]
            outputs.append(out_HTD.transpose(0, 1))
        return torch.cat(outputs)

    def finish(self) -> None:
        """Count the new tokens as held; call after every layer has attended."""
        for slot, past, count in zip(self.slots, self.past, self.counts, strict=True):
            self.cache.lengths[slot] = past + count
