"""The gate of a SwiGLU over a projection that holds gate and up side by side.

Shape letters: N tokens (any number of leading dimensions), I width of the gate.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.ops.native import CUDA_MULTIPLE, Context, is_native, is_served, once


def silu_mul(gate_up_NI: Tensor) -> Tensor:
    """silu(gate) * up, [..., 2 * I] -> [..., I] in the same dtype; bf16 is computed in f32 and rounded once.

    Args:
        gate_up_NI: first the gate's I numbers, then up's.

    Raises:
        ValueError: the last dimension is not even.
    """
    if gate_up_NI.dim() == 0 or gate_up_NI.shape[-1] == 0 or gate_up_NI.shape[-1] % 2:
        raise ValueError(f"silu_mul got shape {list(gate_up_NI.shape)}; it must end in an even size of at least 2")
    if is_served(gate_up_NI, cuda=gate_up_NI.shape[-1] % (2 * CUDA_MULTIPLE) == 0):
        out_NI: Tensor = torch.ops.foveate.silu_mul(gate_up_NI)
        return out_NI
    gate_NI, up_NI = gate_up_NI.to(torch.promote_types(gate_up_NI.dtype, torch.float32)).chunk(2, dim=-1)
    return (F.silu(gate_NI) * up_NI).to(gate_up_NI.dtype)


def _fake(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))


def _fake_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


def _save(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


@once
def _gradient(ctx: Context, grad: Tensor) -> Tensor:
    out: Tensor = torch.ops.foveate.silu_mul_backward(grad, *ctx.saved_tensors)
    return out


def _register() -> None:
    torch.library.register_fake("foveate::silu_mul", _fake)
    torch.library.register_fake("foveate::silu_mul_backward", _fake_backward)
    torch.library.register_autograd("foveate::silu_mul", _gradient, setup_context=_save)


if is_native():
    _register()
