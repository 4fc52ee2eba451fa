"""The rows of experts' tokens, tokens to these rows, and the experts' results back to the tokens.

Shape letters: T tokens, K choices of a token, E experts, P rows in the order of experts, D width, S = T*K choices.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from foveate.ops.native import CUDA_MULTIPLE, Context, has_kernels, is_native, is_served, once
from foveate.ops.rows import put_rows, take_rows

CUDA_EXPERTS = 1024
"""The kernel for GPUs orders the choices of so many."""


def order(experts_TK: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    """Choices in the order of experts, those of one expert in the order of tokens.

    Args:
        experts_TK: int64, from 0 to num_experts - 1.
        num_experts: E.

    Returns:
        The row [T, K] of each choice, and [E + 1] 0 and where each expert's rows end.
    """
    if has_kernels(experts_TK.device) and (experts_TK.is_cpu or num_experts <= CUDA_EXPERTS):
        place_TK, ends_E1 = torch.ops.foveate.moe_order(experts_TK.contiguous(), num_experts)
        return place_TK, ends_E1.long()
    sorted_S, order_S = torch.sort(experts_TK.reshape(-1), stable=True)
    ends_E1 = torch.searchsorted(sorted_S, torch.arange(num_experts + 1, device=sorted_S.device))
    place_S = torch.empty_like(order_S)
    place_S[order_S] = torch.arange(len(order_S), device=order_S.device)
    return place_S.view_as(experts_TK), ends_E1


def dispatch(x_TD: Tensor, place_TK: Tensor, num_rows: int) -> Tensor:
    """Rows [P, D]: row place[t, k] is token t, rows that nobody chose are zero.

    Args:
        x_TD: tokens.
        place_TK: int64, all different, from 0 to num_rows - 1.
        num_rows: P.
    """
    if is_served(x_TD, cuda=x_TD.shape[1] % CUDA_MULTIPLE == 0):
        rows_PD: Tensor = torch.ops.foveate.moe_dispatch(x_TD, place_TK, None, num_rows)
        return rows_PD
    repeated_SD = x_TD[:, None].expand(-1, place_TK.shape[1], -1).flatten(0, 1)
    return put_rows(repeated_SD, place_TK.flatten(), num_rows)


def combine(rows_PD: Tensor, place_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Tokens [T, D] in the dtype of the rows: the weighted sum of each token's rows, in f32 in the order of choices.

    Args:
        rows_PD: results of experts.
        place_TK: as in `dispatch`.
        weights_TK: of each choice.
    """
    if is_served(rows_PD, cuda=rows_PD.shape[1] % CUDA_MULTIPLE == 0):
        out_TD: Tensor = torch.ops.foveate.moe_combine(rows_PD, place_TK, weights_TK.float().contiguous())
        return out_TD
    rows_TKD = take_rows(rows_PD, place_TK.flatten()).unflatten(0, place_TK.shape)
    wide = torch.promote_types(rows_PD.dtype, torch.float32)
    sums_TD: Tensor = (rows_TKD.to(wide) * weights_TK.to(wide)[:, :, None]).sum(1)
    return sums_TD.to(rows_PD.dtype)


class _DispatchContext(Context, Protocol):
    weighted: bool
    num_rows: int


def _fake_order(experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor]:
    return experts.new_empty(experts.shape), experts.new_empty(num_experts + 1, dtype=torch.int32)


def _fake_dispatch(x: Tensor, place: Tensor, weights: Tensor | None, num_rows: int) -> Tensor:
    return x.new_empty((num_rows, x.shape[1]))


def _fake_combine(rows: Tensor, place: Tensor, weights: Tensor | None) -> Tensor:
    return rows.new_empty((place.shape[0], rows.shape[1]))


def _fake_dots(x: Tensor, rows: Tensor, place: Tensor) -> Tensor:
    return x.new_empty(place.shape, dtype=torch.float32)


def _save_dispatch(ctx: _DispatchContext, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, place, weights, _ = inputs
    ctx.weighted = weights is not None
    ctx.save_for_backward(place, *((x, weights) if ctx.weighted else ()))


def _dispatch_gradient(ctx: _DispatchContext, grad: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
    place, *saved = ctx.saved_tensors
    x, weights = saved or (None, None)
    grad_weights = torch.ops.foveate.moe_dots(x, grad, place) if ctx.weighted else None
    return torch.ops.foveate.moe_combine(grad, place, weights), None, grad_weights, None


def _save_combine(ctx: _DispatchContext, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, place, weights = inputs
    ctx.weighted, ctx.num_rows = weights is not None, len(rows)
    ctx.save_for_backward(place, *((rows, weights) if ctx.weighted else ()))


@once
def _combine_gradient(ctx: _DispatchContext, grad: Tensor) -> tuple[Tensor, None, Tensor | None]:
    place, *saved = ctx.saved_tensors
    rows, weights = saved or (None, None)
    grad_weights = torch.ops.foveate.moe_dots(grad, rows, place) if ctx.weighted else None
    return torch.ops.foveate.moe_dispatch(grad, place, weights, ctx.num_rows), None, grad_weights


def _register() -> None:
    library = torch.library
    library.register_fake("foveate::moe_order", _fake_order)
    library.register_fake("foveate::moe_dispatch", _fake_dispatch)
    library.register_fake("foveate::moe_combine", _fake_combine)
    library.register_fake("foveate::moe_dots", _fake_dots)
    library.register_autograd("foveate::moe_dispatch", _dispatch_gradient, setup_context=_save_dispatch)
    library.register_autograd("foveate::moe_combine", _combine_gradient, setup_context=_save_combine)


if is_native():
    _register()
