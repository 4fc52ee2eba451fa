"""One new token over a long cache beside torch's attention and vLLM's; the aim is the floor, reading the cache once."""

from collections.abc import Iterator
from itertools import count

import torch
from torch.nn.functional import scaled_dot_product_attention

from foveate.benchmarks import vllm_peer
from foveate.benchmarks.measure import Case, Run
from foveate.ops import decode_attention

HEADS, KEY_HEADS, HEAD_DIM, CONTEXT = 16, 2, 128, 4096
CACHES = 48
"""More than any processor's own memory holds, so that every token reads its cache from outside."""


def cases() -> Iterator[Case]:
    """bf16, one conversation."""
    k, v = (torch.randn(CACHES, CONTEXT, KEY_HEADS, HEAD_DIM).bfloat16() for _ in range(2))
    q = torch.randn(1, HEADS, HEAD_DIM).bfloat16()
    lengths, turn = torch.tensor([CONTEXT]), count()

    def ours(_: int) -> torch.Tensor:
        return decode_attention(q, k, v, torch.tensor([next(turn) % CACHES]), lengths, CONTEXT)

    def by_torch(_: int) -> torch.Tensor:
        slot = next(turn) % CACHES
        keys, values = (x[slot].transpose(0, 1)[None] for x in (k, v))
        return scaled_dot_product_attention(q[:, :, None], keys, values, enable_gqa=True)[:, :, 0]

    peers: dict[str, Run] = {"torch": by_torch}
    if vllm_peer.has_vllm():
        by_vllm = vllm_peer.cache_of(k, v)
        peers["vllm"] = lambda _: by_vllm(q, next(turn) % CACHES)
    yield Case(
        op="gqa_decode",
        shape=f"1 token over {CONTEXT}, {HEADS}/{KEY_HEADS} heads of {HEAD_DIM}",
        dtype="bfloat16",
        ours=ours,
        peers=peers,
        moved=2 * CONTEXT * KEY_HEADS * HEAD_DIM * 2,
    )
