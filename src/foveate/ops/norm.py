"""RMSNorm, with a residual that is added first where there is one.

Shapes: T tokens (any number of leading dimensions), D numbers a token.
"""

from typing import Any, overload

import torch
from torch import Tensor

from foveate.ops.native import Context, derives_otherwise, is_native, once

_DTYPES = (torch.bfloat16, torch.float32, torch.float64)


@overload
def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, residual_TD: None = None) -> Tensor: ...


@overload
def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float, residual_TD: Tensor) -> tuple[Tensor, Tensor]: ...


def rms_norm(
    x_TD: Tensor, weight_D: Tensor, eps: float, residual_TD: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """Scale each token to a root mean square of 1, then by the weight; sums run in f32 (f64 for f64).

    Args:
        x_TD: [..., D], bf16, f32 or f64.
        weight_D: [D], for the native kernel of x's dtype or f32.
        eps: added to the mean square before the root.
        residual_TD: [..., D], for the native kernel of x's dtype. If given, x + residual is what is normalised.

    Returns:
        The normalised tokens [..., D] in x's dtype; with a residual also x + residual, the next residual stream.

    Raises:
        ValueError: the shapes do not fit.
    """
    _check_rms_norm(x_TD, weight_D, residual_TD)
    if not _takes(x_TD, weight_D, residual_TD):
        return _plain_rms_norm(x_TD, weight_D, eps, residual_TD)
    normed_TD: Tensor
    if residual_TD is None:
        normed_TD, _ = torch.ops.foveate.rms_norm(x_TD, weight_D, eps)
        return normed_TD
    normed_TD, total_TD, _ = torch.ops.foveate.add_rms_norm(x_TD, residual_TD, weight_D, eps)
    return normed_TD, total_TD


def _takes(x_TD: Tensor, weight_D: Tensor, residual_TD: Tensor | None) -> bool:
    """Whether the kernel serves: it knows these dtypes together; others are added and multiplied as torch does."""
    if not is_native() or not x_TD.is_cpu or derives_otherwise():
        return False
    same = residual_TD is None or residual_TD.dtype == x_TD.dtype
    return same and x_TD.dtype in _DTYPES and weight_D.dtype in {x_TD.dtype, torch.float32}


def _check_rms_norm(x_TD: Tensor, weight_D: Tensor, residual_TD: Tensor | None) -> None:
    if weight_D.dim() != 1 or x_TD.dim() == 0 or x_TD.shape[-1] != weight_D.shape[0] or weight_D.shape[0] == 0:
        raise ValueError(
            f"rms_norm got x of shape {list(x_TD.shape)} and weight of shape {list(weight_D.shape)}; "
            "x must be [..., D] and weight [D] with D >= 1"
        )
    if residual_TD is not None and residual_TD.shape != x_TD.shape:
        raise ValueError(
            f"rms_norm got x of shape {list(x_TD.shape)} and residual of shape {list(residual_TD.shape)}; "
            "they must be equal"
        )


def _plain_rms_norm(
    x_TD: Tensor, weight_D: Tensor, eps: float, residual_TD: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]:
    """The same in PyTorch's own operations, for machines without the extension and for GPUs."""
    total_TD = x_TD if residual_TD is None else x_TD + residual_TD
    if total_TD.is_cuda and weight_D.dtype == total_TD.dtype:
        fused_TD = torch.nn.functional.rms_norm(total_TD, weight_D.shape, weight_D, eps)
        return fused_TD if residual_TD is None else (fused_TD, total_TD)
    wide_TD = total_TD if total_TD.dtype == torch.float64 else total_TD.float()
    scale_T1 = torch.rsqrt(wide_TD.square().mean(dim=-1, keepdim=True) + eps)
    normed_TD = (wide_TD * scale_T1 * weight_D.to(wide_TD.dtype)).to(x_TD.dtype)
    return normed_TD if residual_TD is None else (normed_TD, total_TD)


def _inverse_rms_like(x: Tensor) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape[:-1], dtype=dtype)


def _packed_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _packed_like(x), _inverse_rms_like(x)


def _fake_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return _packed_like(x), _packed_like(x), _inverse_rms_like(x)


def _fake_rms_norm_backward(
    grad_normed: Tensor, grad_total: Tensor | None, x: Tensor, weight: Tensor, inverse_rms: Tensor
) -> tuple[Tensor, Tensor]:
    return _packed_like(x), weight.new_empty(weight.shape)


def _save_rms_norm(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, output[1])


@once
def _rms_norm_gradient(
    ctx: Context, grad_normed: Tensor | None, _grad_inverse: Tensor | None
) -> tuple[Tensor | None, Tensor | None, None]:
    if grad_normed is None:
        return None, None, None
    x, weight, inverse_rms = ctx.saved_tensors
    grad_x, grad_weight = torch.ops.foveate.rms_norm_backward(grad_normed, None, x, weight, inverse_rms)
    return grad_x, grad_weight, None


def _save_add_rms_norm(ctx: Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, _, weight, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], weight, output[2])


@once
def _add_rms_norm_gradient(
    ctx: Context, grad_normed: Tensor | None, grad_total: Tensor | None, _grad_inverse: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    if grad_normed is None:
        return grad_total, grad_total, None, None
    total, weight, inverse_rms = ctx.saved_tensors
    grad_x, grad_weight = torch.ops.foveate.rms_norm_backward(grad_normed, grad_total, total, weight, inverse_rms)
    return grad_x, grad_x, grad_weight, None


def _register() -> None:
    """Give torch the fake kernels and the gradients."""
    library = torch.library
    library.register_fake("foveate::rms_norm", _fake_rms_norm)
    library.register_fake("foveate::add_rms_norm", _fake_add_rms_norm)
    library.register_fake("foveate::rms_norm_backward", _fake_rms_norm_backward)
    library.register_autograd("foveate::rms_norm", _rms_norm_gradient, setup_context=_save_rms_norm)
    library.register_autograd("foveate::add_rms_norm", _add_rms_norm_gradient, setup_context=_save_add_rms_norm)


if is_native():
    _register()
