"""Experts of one token beside what models of transformers run; the aim is reading the chosen experts' weights once."""

from collections.abc import Iterator

import torch

from foveate.benchmarks.experts import EXPERTS, INNER, TOP_K, WIDTH, Inputs, inputs, matrices, peers
from foveate.benchmarks.measure import Case, Run
from foveate.ops import Int8Rows, Nf4Rows, Rounded, experts_forward

MOVED = 3 * TOP_K * WIDTH * INNER
"""Weights that one token needs."""


@torch.inference_mode()
def cases() -> Iterator[Case]:
    """The same peers for all: they have no rounded weights here."""
    gate_up, down = matrices()
    sets = inputs(1)
    shape = f"1 token, {TOP_K} of {EXPERTS} experts, {WIDTH} x {INNER}"
    yield Case(
        op="moe_decode",
        shape=shape,
        dtype="bfloat16",
        ours=lambda n: experts_forward(*sets[n], gate_up, down),
        peers=peers(sets, gate_up, down),
        moved=2 * MOVED,
    )
    for name, kind, num_bits in (("int8", Int8Rows, 8.0), ("nf4", Nf4Rows, 4.5)):
        yield Case(
            op=f"moe_decode_{name}",
            shape=f"{shape}, {name} weights beside bf16",
            dtype="bfloat16",
            ours=_over(sets, kind.of(gate_up), kind.of(down)),
            peers=peers(sets, gate_up, down),
            moved=int(MOVED * num_bits / 8),
        )


def _over(sets: list[Inputs], gate_up: Rounded, down: Rounded) -> Run:
    return lambda number: experts_forward(*sets[number], gate_up, down)
