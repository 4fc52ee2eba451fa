"""A linear layer beside torch's: of few tokens the aim is reading the weights once; many are torch's own product."""

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.benchmarks.measure import Case
from foveate.ops import linear

WIDTH = 2048
TOKENS = (1, 16, 2048)
MATRICES = 24
"""More than any processor's own memory holds, so that each is read from outside."""


def cases() -> Iterator[Case]:
    """bf16, without a gradient."""
    layers = matrices()
    for num_tokens in TOKENS:
        yield case(num_tokens, layers)


def matrices() -> Tensor:
    """[layers, outputs, inputs] bf16."""
    return torch.randn(MATRICES, WIDTH, WIDTH).mul(WIDTH**-0.5).bfloat16()


def case(num_tokens: int, layers: Tensor) -> Case:
    """So many tokens, each time through another matrix."""
    x, turn, number = torch.randn(num_tokens, WIDTH).bfloat16(), count(), len(layers)
    return Case(
        op="linear",
        shape=f"{num_tokens} tokens, {WIDTH} x {WIDTH}",
        size=num_tokens,
        dtype="bfloat16",
        ours=lambda _: linear(x, layers[next(turn) % number]),
        peers={"torch": lambda _: F.linear(x, layers[next(turn) % number])},
        flops=2 * num_tokens * WIDTH**2,
        moved=2 * WIDTH**2,
    )
