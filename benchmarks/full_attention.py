"""Claim: attention over a whole picture, rotation included, beats rotating first and torch's fused attention then."""

from collections.abc import Iterator

import torch

from foveate.benchmarks.measure import Case
from foveate.benchmarks.windows import HEAD_DIM, HEADS, TOKENS, WIDTH, by_torch, projections, tables
from foveate.ops import Packing, window_attention


def cases() -> Iterator[Case]:
    """bf16, forward: the layers of a tower that see everything."""
    angles, packing = tables(), Packing([TOKENS])
    inputs = projections(torch.bfloat16)
    yield Case(
        op="full_attention",
        shape=f"{TOKENS} patches, {HEADS} heads of {HEAD_DIM}",
        dtype="bfloat16",
        ours=lambda n: window_attention(inputs[n], angles, packing, HEADS),
        peers={"torch": lambda n: by_torch(inputs[n], angles, packing)},
        flops=4 * WIDTH * TOKENS**2,
    )
