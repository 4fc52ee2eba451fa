"""Claim: split, rotation, attention and merge of the tower's windows in one pass beat the same step by step."""

from collections.abc import Iterator

import torch
from torch import nn

from foveate.benchmarks.measure import Case, Run
from foveate.benchmarks.peers import has_transformers, window_layer
from foveate.benchmarks.windows import HEAD_DIM, HEADS, LENGTHS, TOKENS, WIDTH, by_torch, projections, tables
from foveate.ops import Packing, window_attention


def cases() -> Iterator[Case]:
    """bf16 and f32, forward."""
    yield from map(_case, (torch.bfloat16, torch.float32))


def _case(dtype: torch.dtype) -> Case:
    angles, packing, inputs = tables(), Packing(LENGTHS), projections(dtype)
    peers: dict[str, Run] = {"torch": lambda n: by_torch(inputs[n], angles, packing)}
    if has_transformers():
        layer = window_layer(angles, nn.Identity(), nn.Identity())
        peers["transformers"] = lambda n: layer(inputs[n])
    return Case(
        op="window_core",
        shape=f"{TOKENS} patches in {len(LENGTHS)} windows, {HEADS} heads of {HEAD_DIM}",
        dtype=str(dtype).removeprefix("torch."),
        ours=lambda n: window_attention(inputs[n], angles, packing, HEADS),
        peers=peers,
        flops=4 * WIDTH * sum(length**2 for length in LENGTHS),
        moved=4 * WIDTH * TOKENS * dtype.itemsize,
    )
