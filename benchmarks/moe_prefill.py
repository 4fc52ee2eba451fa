"""Experts over a prompt beside what models of transformers run; the aim is the time of the products alone."""

from collections.abc import Iterator

from torch import Tensor

from foveate.benchmarks.experts import EXPERTS, INNER, TOP_K, WIDTH, inputs, matrices, peers, read_bytes
from foveate.benchmarks.measure import Case
from foveate.ops import experts_forward

TOKENS = 512


def cases() -> Iterator[Case]:
    """bf16, routed experts alone."""
    yield case(TOKENS, *matrices())


def case(num_tokens: int, gate_up: Tensor, down: Tensor) -> Case:
    """So many tokens."""
    sets = inputs(num_tokens)
    runs = peers(sets, gate_up, down)
    return Case(
        op="moe_prefill",
        shape=f"{num_tokens} tokens, {TOP_K} of {EXPERTS} experts, {WIDTH} x {INNER}",
        size=num_tokens,
        dtype="bfloat16",
        ours=lambda n: experts_forward(*sets[n], gate_up, down),
        peers=runs,
        flops=6 * WIDTH * INNER * TOP_K * num_tokens,
        moved=read_bytes(sets),
    )
