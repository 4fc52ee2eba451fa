"""One new token over a long cache beside the attention of torch, of transformers and of vLLM.

The aim is the floor, reading the cache once. Each has the cache as it keeps it.
"""

from collections.abc import Iterator
from itertools import count

import torch
from torch.nn.functional import scaled_dot_product_attention

from foveate.benchmarks import vllm_peer
from foveate.benchmarks.measure import Case, Run
from foveate.benchmarks.peers import has_transformers, one_token
from foveate.ops import decode_attention

HEADS, KEY_HEADS, HEAD_DIM, CONTEXT = 16, 2, 128, 4096
HELD = 48 * CONTEXT
"""Tokens of all caches: more than any processor's own memory holds, so that each is read from outside."""


def cases() -> Iterator[Case]:
    """bf16, one conversation."""
    yield case(CONTEXT)


def case(context: int) -> Case:
    """A token after so many."""
    caches = max(1, HELD // context)
    k, v = (torch.randn(caches, context, KEY_HEADS, HEAD_DIM).bfloat16() for _ in range(2))
    q = torch.randn(1, HEADS, HEAD_DIM).bfloat16()
    lengths, turn = torch.tensor([context]), count()

    def ours(_: int) -> torch.Tensor:
        return decode_attention(q, k, v, torch.tensor([next(turn) % caches]), lengths, context)

    def by_torch(_: int) -> torch.Tensor:
        """Queries that share a key head as so many tokens of one: with enable_gqa each head alone reads the cache."""
        slot = next(turn) % caches
        keys, values = (x[slot].transpose(0, 1)[None] for x in (k, v))
        return scaled_dot_product_attention(q.unflatten(1, (KEY_HEADS, -1)), keys, values).flatten(1, 2)

    peers: dict[str, Run] = {"torch": by_torch}
    if has_transformers():
        theirs, caches_across = one_token(HEADS, KEY_HEADS), [x.transpose(1, 2).contiguous() for x in (k, v)]

        def by_transformers(_: int) -> torch.Tensor:
            slot = next(turn) % caches
            return theirs(q, *(x[slot][None] for x in caches_across))

        peers["transformers"] = by_transformers
    if vllm_peer.has_vllm():
        by_vllm = vllm_peer.cache_of(k, v, HEADS)
        peers["vllm"] = lambda _: by_vllm(q, next(turn) % caches)
    return Case(
        op="gqa_decode",
        shape=f"1 token over {context}, {HEADS}/{KEY_HEADS} heads of {HEAD_DIM}",
        size=context,
        dtype="bfloat16",
        ours=ours,
        peers=peers,
        moved=2 * context * KEY_HEADS * HEAD_DIM * 2,
    )
