"""A mixture of experts: each token through the experts that were chosen for it.

Many tokens are put in expert order by a stable sort and each expert multiplies its own; the results are brought back
and added in the order of the routing, so a batch gives the same bits each time. For few tokens, where reading the
weights is all that counts, one kernel does the whole without a sort of anything but the choices.

Shape letters: T tokens, D width, E experts, K experts of a token, I width of an expert, S = T*K choices, P padded rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.ops.activation import silu_mul
from foveate.ops.int8 import Int8Rows, parts, product
from foveate.ops.moe import combine, dispatch
from foveate.ops.native import is_native, is_served

ROWS = 64
"""Each expert's tokens are padded to a multiple of this: matrix libraries compile a kernel for each new shape."""
FEW = 4
"""Tokens of an expert, on average, up to which the weights are read row by row."""


def experts_forward(
    x_TD: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor,
    gate_up_EID: Tensor | Int8Rows,
    down_EDI: Tensor | Int8Rows,
) -> Tensor:
    """Sum over a token's experts of weight * down(silu(gate(x)) * up(x)), [T, D] in the dtype of x.

    Args:
        x_TD: tokens.
        experts_TK: int64, the experts of each token; one may come twice.
        weights_TK: of each choice.
        gate_up_EID: [E, 2 * I, D], of each expert gate, then up; in the dtype of x, or int8.
        down_EDI: [E, D, I], likewise. Int8 weights have no gradient.
    """
    gate_up, gate_up_scales = parts(gate_up_EID)
    down, down_scales = parts(down_EDI)
    if _is_few(x_TD, experts_TK, weights_TK, gate_up, down):
        weights_TK = weights_TK.float().contiguous()
        out_TD: Tensor = torch.ops.foveate.moe_experts(
            x_TD, experts_TK.contiguous(), weights_TK, gate_up, down, gate_up_scales, down_scales
        )
        return out_TD
    return _grouped(x_TD, experts_TK, weights_TK, _each(gate_up_EID), _each(down_EDI))


def expert_order(experts_TK: Tensor, num_experts: int, multiple: int) -> tuple[Tensor, list[int]]:
    """Row [T, K] of each choice when choices lie in expert order, and each expert's number of rows with padding."""
    experts_S = experts_TK.reshape(-1)
    order_S = torch.argsort(experts_S, stable=True)
    counts_E = torch.bincount(experts_S, minlength=num_experts)
    sizes_E = -(-counts_E // multiple) * multiple
    shift_E = (sizes_E.cumsum(0) - sizes_E) - (counts_E.cumsum(0) - counts_E)
    place_S = torch.empty_like(order_S)
    place_S[order_S] = torch.arange(len(order_S), device=order_S.device) + shift_E[experts_S[order_S]]
    return place_S.view_as(experts_TK), sizes_E.tolist()


Weights = Sequence[Tensor | Int8Rows]
"""Of each expert."""


def _each(weights: Tensor | Int8Rows) -> Weights:
    return weights.each() if isinstance(weights, Int8Rows) else weights.unbind()


def _grouped(x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, gate_up: Weights, down: Weights) -> Tensor:
    place_TK, sizes = expert_order(experts_TK, len(gate_up), ROWS if len(x_TD) > ROWS else 1)
    x_PD = dispatch(x_TD, place_TK, sum(sizes))
    outputs = []
    for rows_ND, gate_up_ID, down_DI in zip(x_PD.split(sizes), gate_up, down, strict=True):
        if len(rows_ND):
            outputs.append(product(silu_mul(product(rows_ND, gate_up_ID)), down_DI))
    return combine(torch.cat(outputs), place_TK, weights_TK) if outputs else torch.zeros_like(x_TD)


def _is_few(x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, gate_up: Tensor, down: Tensor) -> bool:
    """Whether the kernel for few tokens serves: no gradient is wanted, and an expert sees few tokens."""
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (x_TD, weights_TK, gate_up, down))
    return is_served(x_TD) and not wanted and experts_TK.numel() <= FEW * len(gate_up)


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
