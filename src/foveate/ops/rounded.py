"""Products with weights that may be rounded: by torch, and what a kernel takes of them.

Shape letters: N tokens (any number of leading dimensions), R rows, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.ops.int8 import Int8Rows
from foveate.ops.nf4 import Nf4Rows

Rounded = Int8Rows | Nf4Rows
"""Weights rounded when they were loaded; they have no gradient."""
Weights = Tensor | Rounded
"""As they are stored, or rounded."""


def product(x_ND: Tensor, weights_RD: Weights, bias_R: Tensor | None = None) -> Tensor:
    """The product x weights^T + bias by torch, [..., R]; of int8, a row's scale counts once, at the end."""
    if isinstance(weights_RD, Nf4Rows):
        return F.linear(x_ND, weights_RD.dequantized(x_ND.dtype), bias_R)
    if not isinstance(weights_RD, Int8Rows):
        return F.linear(x_ND, weights_RD, bias_R)
    wide_ND = x_ND.float() if x_ND.dtype == torch.float16 else x_ND  # sums of whole numbers would not fit
    sums_NR = F.linear(wide_ND, weights_RD.values.to(wide_ND.dtype))
    y_NR = sums_NR * weights_RD.scales
    dtype = sums_NR.dtype if wide_ND is x_ND else x_ND.dtype  # under autocast its own
    return (y_NR if bias_R is None else y_NR + bias_R).to(dtype)


def parts(weights: Weights) -> tuple[Tensor, Tensor | None]:
    """What a kernel takes: the weights without gaps, and the scales of rounded ones."""
    if isinstance(weights, Tensor):
        return weights.contiguous(), None
    values, scales = weights
    return values.contiguous(), scales.contiguous()
