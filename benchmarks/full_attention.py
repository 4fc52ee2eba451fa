"""Claim: attention over a whole picture, rotation included, beats rotating first and torch's fused attention then.

Transformers does just that.
"""

from collections.abc import Iterator

import torch
from torch import nn

from foveate.benchmarks.measure import Case, Run
from foveate.benchmarks.peers import has_transformers, window_layer
from foveate.benchmarks.windows import HEAD_DIM, HEADS, SIDE, WIDTH, by_torch, projections, tables
from foveate.ops import Packing, window_attention


def cases() -> Iterator[Case]:
    """bf16, forward: the layers of a tower that see everything."""
    yield case(SIDE)


def case(side: int) -> Case:
    """A picture of `side` x `side` patches, each of which sees all."""
    num_tokens = side**2
    angles, packing = tables(num_tokens), Packing([num_tokens])
    inputs = projections(num_tokens, torch.bfloat16)
    peers: dict[str, Run] = {"torch": lambda n: by_torch(inputs[n], angles, packing)}
    if has_transformers():
        layer = window_layer([num_tokens], angles, nn.Identity(), nn.Identity())
        peers["transformers"] = lambda n: layer(inputs[n])
    return Case(
        op="full_attention",
        shape=f"{num_tokens} patches, {HEADS} heads of {HEAD_DIM}",
        size=num_tokens,
        dtype="bfloat16",
        ours=lambda n: window_attention(inputs[n], angles, packing, HEADS),
        peers=peers,
        flops=4 * WIDTH * num_tokens**2,
    )
