"""Experts over a prompt beside what models of transformers run; the aim is the time of the products alone."""

from collections.abc import Iterator

from foveate.benchmarks.experts import EXPERTS, INNER, TOP_K, WIDTH, inputs, matrices, peers
from foveate.benchmarks.measure import Case
from foveate.ops import experts_forward

TOKENS = 512


def cases() -> Iterator[Case]:
    """bf16, routed experts alone."""
    gate_up, down = matrices()
    sets = inputs(TOKENS)
    runs = peers(sets, gate_up, down)
    runs.pop("transformers batched_mm", None)  # it copies the matrices for each token
    yield Case(
        op="moe_prefill",
        shape=f"{TOKENS} tokens, {TOP_K} of {EXPERTS} experts, {WIDTH} x {INNER}",
        dtype="bfloat16",
        ours=lambda n: experts_forward(*sets[n], gate_up, down),
        peers=runs,
        flops=6 * WIDTH * INNER * TOP_K * TOKENS,
        moved=3 * EXPERTS * WIDTH * INNER * 2,
    )
