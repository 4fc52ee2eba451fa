"""A linear layer, by a kernel of ours where few tokens come and reading the weights is all that counts, or on AMX.

Shape letters: N tokens (any number of leading dimensions), D inputs, O outputs.
"""

import torch
from torch import Tensor

from foveate.ops.native import are_alike, is_native, is_recast, is_served, takes_tiles, torch_has_tiles, wants_gradient
from foveate.ops.rounded import Weights, parts, product

FEW, AMX_FEW = 16, 4
"""Tokens up to which our kernel without tiles is as fast as torch's product or faster, and where torch has tiles."""


def linear(x_ND: Tensor, weight_OD: Weights, bias_O: Tensor | None = None) -> Tensor:
    """The product x weight^T + bias, [..., O] in the dtype of x, under autocast in its.

    Args:
        x_ND: tokens, [..., D].
        weight_OD: in the dtype of x, or rounded, which has no gradient.
        bias_O: in the dtype of x.
    """
    if not _is_ours(x_ND, weight_OD, bias_O):
        return product(x_ND, weight_OD, bias_O)
    weight, scales = parts(weight_OD)
    bias = None if bias_O is None else bias_O.contiguous()
    rows_ND = x_ND if x_ND.dim() == 2 else x_ND.reshape(-1, x_ND.shape[-1])
    out_ND: Tensor = torch.ops.foveate.linear(rows_ND, weight, bias, scales)
    return out_ND if rows_ND is x_ND else out_ND.view(*x_ND.shape[:-1], -1)


def linear_f32(x_ND: Tensor, weight_OD: Tensor) -> Tensor:
    """The product x weight^T in f32, [..., O], of operands in f32 or narrower: nothing is rounded after."""
    if x_ND.dim() != 2 or not _is_ours(x_ND, weight_OD, None):
        with torch.autocast(x_ND.device.type, enabled=False):
            return linear(x_ND.float(), weight_OD.float())
    out_NO: Tensor = torch.ops.foveate.linear(x_ND, weight_OD.contiguous(), None, None, wide=True)
    return out_NO


def _is_ours(x_ND: Tensor, weight_OD: Weights, bias_O: Tensor | None) -> bool:
    """Whether the kernel serves: no gradient is wanted, and few tokens come, or tiles multiply them."""
    operands = (weight_OD, bias_O)
    if (
        wants_gradient(x_ND, *operands)
        or not are_alike(x_ND, *operands)
        or not (is_served(x_ND) and x_ND.numel())
        or is_recast(x_ND)
    ):
        return False
    if isinstance(weight_OD, Tensor) and takes_tiles(x_ND, weight_OD):
        return True
    return x_ND.numel() <= (AMX_FEW if torch_has_tiles(x_ND) else FEW) * x_ND.shape[-1]


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, scales: Tensor | None, wide: bool = False) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=torch.float32 if wide else x.dtype)


if is_native():
    torch.library.register_fake("foveate::linear", _fake)
