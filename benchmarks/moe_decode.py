"""Experts of one token beside what models of transformers run; the aim is reading the chosen experts' weights once."""

from collections.abc import Iterator

import torch

from foveate.benchmarks.experts import EXPERTS, INNER, TOP_K, WIDTH, inputs, matrices, peers
from foveate.benchmarks.measure import Case
from foveate.ops import Int8Rows, experts_forward

MOVED = 3 * TOP_K * WIDTH * INNER
"""Weights that one token needs."""


@torch.inference_mode()
def cases() -> Iterator[Case]:
    """The same peers for both: they have no int8 weights here."""
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
    rounded = Int8Rows.of(gate_up), Int8Rows.of(down)
    yield Case(
        op="moe_decode_int8",
        shape=f"{shape}, int8 weights beside bf16",
        dtype="bfloat16",
        ours=lambda n: experts_forward(*sets[n], *rounded),
        peers=peers(sets, gate_up, down),
        moved=MOVED,
    )
