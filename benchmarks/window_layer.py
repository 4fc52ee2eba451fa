"""Claim: a whole window layer, projections included, beats transformers' and plain torch's."""

from collections.abc import Iterator

import torch
from torch import nn

from foveate.benchmarks.measure import SETS, Case, Run
from foveate.benchmarks.peers import has_transformers, window_layer
from foveate.benchmarks.windows import HEAD_DIM, HEADS, LENGTHS, TOKENS, WIDTH, by_torch, tables
from foveate.ops import Packing, window_attention


def cases() -> Iterator[Case]:
    """bf16, forward."""
    angles, packing, dtype = tables(), Packing(LENGTHS), torch.bfloat16
    inputs = [torch.randn(TOKENS, WIDTH).to(dtype) for _ in range(SETS)]
    qkv, proj = nn.Linear(WIDTH, 3 * WIDTH).to(dtype), nn.Linear(WIDTH, WIDTH).to(dtype)
    peers: dict[str, Run] = {"torch": lambda n: proj(by_torch(qkv(inputs[n]), angles, packing))}
    if has_transformers():
        layer = window_layer(angles, qkv, proj)
        peers["transformers"] = lambda n: layer(inputs[n])
    yield Case(
        op="window_layer",
        shape=f"{TOKENS} patches in {len(LENGTHS)} windows, {HEADS} heads of {HEAD_DIM}",
        dtype="bfloat16",
        ours=lambda n: proj(window_attention(qkv(inputs[n]), angles, packing, HEADS)),
        peers=peers,
        flops=8 * WIDTH**2 * TOKENS + 4 * WIDTH * sum(length**2 for length in LENGTHS),
    )
