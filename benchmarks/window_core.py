"""Claim: split, rotation, attention and merge of the tower's windows in one pass beat the same step by step."""

from collections.abc import Iterator

import torch
from torch import nn

from foveate.benchmarks.measure import Case, Run
from foveate.benchmarks.peers import has_transformers, window_layer
from foveate.benchmarks.windows import HEAD_DIM, HEADS, SIDE, WIDTH, by_torch, projections, tables, window_lengths
from foveate.ops import Packing, window_attention


def cases() -> Iterator[Case]:
    """bf16 and f32, forward."""
    for dtype in (torch.bfloat16, torch.float32):
        yield case(SIDE, dtype)


def case(side: int, dtype: torch.dtype) -> Case:
    """A picture of `side` x `side` patches."""
    lengths, num_tokens = window_lengths(side), side**2
    angles, packing, inputs = tables(num_tokens), Packing(lengths), projections(num_tokens, dtype)
    peers: dict[str, Run] = {"torch": lambda n: by_torch(inputs[n], angles, packing)}
    if has_transformers():
        layer = window_layer(lengths, angles, nn.Identity(), nn.Identity())
        peers["transformers"] = lambda n: layer(inputs[n])
    return Case(
        op="window_core",
        shape=f"{num_tokens} patches in {len(lengths)} windows, {HEADS} heads of {HEAD_DIM}",
        size=num_tokens,
        dtype=str(dtype).removeprefix("torch."),
        ours=lambda n: window_attention(inputs[n], angles, packing, HEADS),
        peers=peers,
        flops=4 * WIDTH * sum(length**2 for length in lengths),
        moved=4 * WIDTH * num_tokens * dtype.itemsize,
    )
