"""Experts of one token beside what models of transformers run; the aim is reading the chosen experts' weights once."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.benchmarks.experts import EXPERTS, INNER, TOP_K, WIDTH, Inputs, inputs, matrices, peers
from foveate.benchmarks.measure import Case, Run
from foveate.ops import Int8Rows, Nf4Rows, Rounded, experts_forward

MOVED = 3 * TOP_K * WIDTH * INNER
"""Weights that one token needs."""


@torch.inference_mode()
def cases() -> Iterator[Case]:
    """The same peers for all, over the same copy of the weights; torch has int8 rows as ours, the others none here."""
    gate_up, down = matrices()
    sets = inputs(1)
    others = peers(sets, gate_up, down)
    shape = f"1 token, {TOP_K} of {EXPERTS} experts, {WIDTH} x {INNER}"
    yield Case(
        op="moe_decode",
        shape=shape,
        dtype="bfloat16",
        ours=lambda n: experts_forward(*sets[n], gate_up, down),
        peers=others,
        moved=2 * MOVED,
    )
    int8, nf4 = (Int8Rows.of(gate_up), Int8Rows.of(down)), (Nf4Rows.of(gate_up), Nf4Rows.of(down))
    for name, rounded, num_bits, theirs in (
        ("int8", int8, 8.0, {"torch int8": _torch_over(sets, *int8)}),
        ("nf4", nf4, 4.5, {}),
    ):
        yield Case(
            op=f"moe_decode_{name}",
            shape=f"{shape}, {name} weights beside bf16",
            dtype="bfloat16",
            ours=_over(sets, *rounded),
            peers=others | theirs,
            moved=int(MOVED * num_bits / 8),
        )


def _over(sets: list[Inputs], gate_up: Rounded, down: Rounded) -> Run:
    return lambda number: experts_forward(*sets[number], gate_up, down)


def _torch_over(sets: list[Inputs], gate_up: Int8Rows, down: Int8Rows) -> Run:
    """By torch's product with rows of int8, which has one scale a row in the tokens' dtype."""
    each = [
        [(rows.values, rows.scales.bfloat16()) for rows in pair]
        for pair in zip(gate_up.each(), down.each(), strict=True)
    ]

    def run(number: int) -> Tensor:
        x_1D, experts_1K, weights_1K = sets[number]
        out_1D = torch.zeros_like(x_1D)
        for expert, weight in zip(experts_1K[0].tolist(), weights_1K[0].to(x_1D.dtype), strict=True):
            first, second = each[expert]
            gate, up = torch._weight_int8pack_mm(x_1D, *first).chunk(2, dim=-1)  # noqa: SLF001
            out_1D += torch._weight_int8pack_mm(F.silu(gate) * up, *second) * weight  # noqa: SLF001
        return out_1D

    return run
