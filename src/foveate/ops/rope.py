"""Rotary positions applied: pairs (element i with i + D/2) turn by their token's angles.

Shape letters: T tokens, H heads, D head dimension, F = D/2 pairs.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from foveate.ops.native import Context, is_native, is_served, wants_gradient

Tables = tuple[Tensor, Tensor]
"""Cosines and sines [T, D/2] of the angles, f32."""


def rotate(x_THD: Tensor, tables: Tables) -> Tensor:
    """Turn every head of x by its token's angles, in the dtype of x; bf16 is computed in f32 and rounded once.

    Tables that are learned have their gradient, by plain PyTorch.

    Raises:
        ValueError: the tables are not [T, D/2].
    """
    wanted = (x_THD.shape[0], x_THD.shape[-1] // 2)
    if x_THD.dim() != 3 or any(table.shape != wanted for table in tables):
        raise ValueError(
            f"rotate got x of shape {list(x_THD.shape)} and tables of shapes "
            f"{[list(table.shape) for table in tables]}; they must be [T, H, D] and [T, D/2]"
        )
    if is_served(x_THD, cuda=True) and not wants_gradient(*tables):
        cos_TF, sin_TF = (table.float().contiguous() for table in tables)
        out_THD: Tensor = torch.ops.foveate.rotate(x_THD, cos_TF, sin_TF, False)
        return out_THD
    wide = torch.promote_types(x_THD.dtype, torch.float32)
    cos, sin = (table.to(wide)[:, None, :] for table in tables)
    first, second = x_THD.to(wide).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_THD.dtype)


class _RotateContext(Context, Protocol):
    back: bool


def _fake(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: _RotateContext, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, cos, sin, ctx.back = inputs
    ctx.save_for_backward(cos, sin)


def _gradient(ctx: _RotateContext, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return torch.ops.foveate.rotate(grad, *ctx.saved_tensors, not ctx.back), None, None, None


def _register() -> None:
    torch.library.register_fake("foveate::rotate", _fake)
    torch.library.register_autograd("foveate::rotate", _gradient, setup_context=_save)


if is_native():
    _register()
