"""Claim: causal attention over packed conversations, forward and backward, beats torch's fused attention one by one."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from foveate.benchmarks.measure import SETS, Case
from foveate.ops import Packing, packed_attention

HEADS, KEY_HEADS, HEAD_DIM = 8, 4, 32
LENGTHS = [1400, 900, 620, 1100, 780]


def by_torch(lengths: Sequence[int], q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> Tensor:
    """One fused attention for each conversation."""
    outputs = []
    for part in zip(*(x.split(list(lengths)) for x in (q_THD, k_TGD, v_TGD)), strict=True):
        q, k, v = (x.transpose(0, 1)[None] for x in part)
        outputs.append(scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(outputs)


def cases() -> Iterator[Case]:
    """bf16 at the sizes of a batch that trains nano."""
    yield case(LENGTHS)


def case(lengths: Sequence[int]) -> Case:
    """Conversations of so many tokens."""
    packing, tokens = Packing(list(lengths)), sum(lengths)
    sets = []
    for _ in range(SETS):
        q, k, v = (
            torch.randn(tokens, heads, HEAD_DIM).bfloat16().requires_grad_() for heads in (HEADS, KEY_HEADS, KEY_HEADS)
        )
        sets.append((q, k, v))
    grad_THD = torch.randn(tokens, HEADS, HEAD_DIM).bfloat16()
    return Case(
        op="decoder_attention",
        shape=f"{tokens} tokens in {len(lengths)}, {HEADS}/{KEY_HEADS} heads of {HEAD_DIM}, with gradients",
        size=tokens,
        dtype="bfloat16",
        ours=lambda n: torch.autograd.grad(packed_attention(*sets[n], packing, causal=True), sets[n], grad_THD),
        peers={"torch": lambda n: torch.autograd.grad(by_torch(lengths, *sets[n]), sets[n], grad_THD)},
        flops=7 * HEADS * HEAD_DIM * sum(length**2 for length in lengths),
    )
