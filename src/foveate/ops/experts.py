"""A mixture of experts: each token through the experts that were chosen for it.

Many tokens are put in expert order by a stable sort and each expert multiplies its own; the results are brought back
and added in the order of the routing, so a batch gives the same bits each time. On a GPU one grouped product takes all
experts, and nobody waits to hear how many rows each has. Up to some dozen tokens of an expert one call does the whole
without a sort of anything but the choices.

Shape letters: T tokens, D width, E experts, K experts of a token, I width of an expert, S = T*K choices, P padded rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.ops.activation import silu_mul
from foveate.ops.moe import CUDA_EXPERTS, combine, dispatch, order
from foveate.ops.native import (
    are_alike,
    is_native,
    is_recast,
    is_served,
    takes_tiles,
    torch_has_tiles,
    wants_gradient,
)
from foveate.ops.rounded import Weights, parts, product

MOST_PADDING = 64
"""Each expert's rows are padded to a multiple of at most this: matrix libraries compile a kernel for each new shape."""
PADDED_SHARE = 16
"""The multiple is at most this part of an expert's tokens, on average: few are multiplied in vain."""
ALIGNED = 8
"""Of a grouped product in bf16 every group begins at, and every row holds, a multiple of this: 16 bytes."""
FEW, AMX_FEW, TILED = 64, 4, 1024
"""Tokens of an expert, on average, up to which one call does the whole; beyond, torch's products are faster, those by
tiles of AMX much sooner where ours use none."""
CUDA_FEW = 256
"""The same for our products on a GPU; beyond, torch's are faster on Hopper (`foveate bench gpu`)."""


def experts_forward(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    gate_up_EID: Weights,
    down_EDI: Weights,
) -> Tensor:
    """Sum over a token's experts of weight * down(silu(gate(x)) * up(x)), [T, D] in the dtype of x.

    Args:
        x_TD: tokens.
        experts_TK: int64, the experts of each token; one may come twice.
        weights_TK: of each choice.
        gate_up_EID: [E, 2 * I, D], of each expert gate, then up; in the dtype of x, or rounded.
        down_EDI: [E, D, I], likewise. Rounded weights have no gradient.
    """
    gate_up, gate_up_scales = parts(gate_up_EID)
    down, down_scales = parts(down_EDI)
    is_few = are_alike(x_TD, gate_up_EID, down_EDI) and _is_few(x_TD, experts_TK, weights_TK, gate_up, down)
    if is_few and not is_recast(x_TD):
        weights_TK = weights_TK.float().contiguous()
        out_TD: Tensor = torch.ops.foveate.moe_experts(
            x_TD, experts_TK.contiguous(), weights_TK, gate_up, down, gate_up_scales, down_scales
        )
        return out_TD
    if _is_one_product(x_TD, gate_up, down):
        return grouped_experts(x_TD, experts_TK, weights_TK, gate_up, down)
    return _one_by_one(x_TD, experts_TK, weights_TK, _each(gate_up_EID), _each(down_EDI))


def expert_order(experts_TK: Tensor, num_experts: int, multiple: int, *, spare: int = 0) -> tuple[Tensor, Tensor]:
    """Row [T, K] of each choice when choices lie in expert order, and each expert's number of rows [E].

    That is its choices and `spare` more, rounded up to a multiple.
    """
    place_TK, ends_E1 = order(experts_TK, num_experts)
    sizes_E = -(-(ends_E1.diff() + spare) // multiple) * multiple
    shift_E = (sizes_E.cumsum(0) - sizes_E) - ends_E1[:-1]
    return place_TK + shift_E[experts_TK], sizes_E


def padding(num_choices: int, num_experts: int) -> int:
    """The power of two to whose multiple an expert's rows are padded."""
    share = num_choices // (PADDED_SHARE * num_experts)
    return min(MOST_PADDING, 1 << max(0, share.bit_length() - 1))


def grouped_experts(
    x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, gate_up_EID: Tensor, down_EDI: Tensor
) -> Tensor:
    """As experts_forward, in one grouped product for all gates and one for the rest.

    There are rows for whatever the experts' numbers may be; those behind the last expert's hold anything and nobody
    reads them. Where a gradient is wanted none is without a row: torch's kernel of the weights' gradient has
    asked for one. Elsewhere an expert that nobody has chosen is not read.
    """
    spare = int(wants_gradient(x_TD, weights_TK, gate_up_EID, down_EDI))
    place_TK, sizes_E = expert_order(experts_TK, len(gate_up_EID), ALIGNED, spare=spare)
    x_PD = dispatch(x_TD, place_TK, experts_TK.numel() + ALIGNED * len(gate_up_EID))
    ends_E = sizes_E.cumsum(0).int()
    inner_PI = silu_mul(F.grouped_mm(x_PD, gate_up_EID.mT, offs=ends_E))
    return combine(F.grouped_mm(inner_PI, down_EDI.mT, offs=ends_E), place_TK, weights_TK)


def _is_one_product(x_TD: Tensor, gate_up_EID: Tensor, down_EDI: Tensor) -> bool:
    """Whether grouped products serve: in bf16, with whole steps of 16 bytes in every row, where numbers are not known.

    That is on a GPU, and while torch.compile traces; in another dtype torch cannot trace them, and the graph breaks.
    """
    unknown = x_TD.is_cuda or torch.compiler.is_compiling()
    whole = not any(size % ALIGNED for size in down_EDI.shape[1:])
    return unknown and whole and {x.dtype for x in (x_TD, gate_up_EID, down_EDI)} == {torch.bfloat16}


def _each(weights: Weights) -> Sequence[Weights]:
    return weights.unbind() if isinstance(weights, Tensor) else weights.each()


def _one_by_one(
    x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, gate_up: Sequence[Weights], down: Sequence[Weights]
) -> Tensor:
    """The weights of each expert in its turn."""
    place_TK, sizes_E = expert_order(experts_TK, len(gate_up), padding(experts_TK.numel(), len(gate_up)))
    sizes = sizes_E.tolist()
    x_PD = dispatch(x_TD, place_TK, sum(sizes))
    outputs = []
    for rows_ND, gate_up_ID, down_DI in zip(x_PD.split(sizes), gate_up, down, strict=True):
        if len(rows_ND):
            outputs.append(product(silu_mul(product(rows_ND, gate_up_ID)), down_DI))
    return combine(torch.cat(outputs), place_TK, weights_TK) if outputs else torch.zeros_like(x_TD)


def _is_few(x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, gate_up: Tensor, down: Tensor) -> bool:
    """Whether the kernel for few tokens serves: no gradient is wanted, and an expert sees few tokens."""
    wanted = wants_gradient(x_TD, weights_TK, gate_up, down)
    served = is_served(x_TD, cuda=_is_one_product(x_TD, gate_up, down) and len(gate_up) <= CUDA_EXPERTS)
    return served and not wanted and experts_TK.numel() <= _most_choices(x_TD, gate_up, down) * len(gate_up)


def _most_choices(x_TD: Tensor, *matrices: Tensor) -> int:
    """Of an expert, on average, where the kernel for few tokens serves."""
    if x_TD.is_cuda:
        return CUDA_FEW
    if takes_tiles(x_TD, *matrices):
        return TILED
    return AMX_FEW if torch_has_tiles(x_TD) else FEW


def _fake(
    x: Tensor,
    experts: Tensor,
    weights: Tensor,
    gate_up: Tensor,
    down: Tensor,
    gate_up_scales: Tensor | None,
    down_scales: Tensor | None,
) -> Tensor:
    return x.new_empty(x.shape)


if is_native():
    torch.library.register_fake("foveate::moe_experts", _fake)
