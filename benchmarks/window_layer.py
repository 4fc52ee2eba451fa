"""Claim: a whole window layer, projections included, beats transformers' and plain torch's."""

from collections.abc import Iterator

import torch
from torch import nn

from foveate.benchmarks.measure import SETS, Case, Run
from foveate.benchmarks.peers import has_transformers, window_layer
from foveate.benchmarks.windows import HEAD_DIM, HEADS, SIDE, WIDTH, by_torch, tables, window_lengths
from foveate.ops import Packing, linear, window_attention


def cases() -> Iterator[Case]:
    """bf16, forward."""
    yield case(SIDE)


def case(side: int) -> Case:
    """A picture of `side` x `side` patches."""
    lengths, num_tokens, dtype = window_lengths(side), side**2, torch.bfloat16
    angles, packing = tables(num_tokens), Packing(lengths)
    inputs = [torch.randn(num_tokens, WIDTH).to(dtype) for _ in range(SETS)]
    qkv, proj = (nn.Linear(WIDTH, parts * WIDTH).to(dtype).requires_grad_(False) for parts in (3, 1))
    peers: dict[str, Run] = {"torch": lambda n: proj(by_torch(qkv(inputs[n]), angles, packing))}
    if has_transformers():
        layer = window_layer(lengths, angles, qkv, proj)
        peers["transformers"] = lambda n: layer(inputs[n])

    def ours(number: int) -> torch.Tensor:
        merged = window_attention(linear(inputs[number], qkv.weight, qkv.bias), angles, packing, HEADS)
        return linear(merged, proj.weight, proj.bias)

    return Case(
        op="window_layer",
        shape=f"{num_tokens} patches in {len(lengths)} windows, {HEADS} heads of {HEAD_DIM}",
        size=num_tokens,
        dtype="bfloat16",
        ours=ours,
        peers=peers,
        flops=8 * WIDTH**2 * num_tokens + 4 * WIDTH * sum(length**2 for length in lengths),
    )
