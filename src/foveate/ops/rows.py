"""Rows of packed sequences, brought into an order in which equal lengths are neighbours, and back.

Shape letters: N and M rows, D width.
"""

from typing import Any

import torch
from torch import Tensor


class _TakeRows(torch.autograd.Function):
    """Gather of different rows; its gradient puts rows back without the additions that autograd's own would make."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, index_M: Tensor) -> Tensor:
        ctx.save_for_backward(index_M)
        ctx.num_rows = len(x_ND)
        return x_ND.index_select(0, index_M)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return put_rows(grads[0], ctx.saved_tensors[0], ctx.num_rows), None


class _PutRows(torch.autograd.Function):
    """The inverse of a gather; each is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, x_MD: Tensor, index_M: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(index_M)
        return x_MD.new_zeros(num_rows, *x_MD.shape[1:]).index_copy_(0, index_M, x_MD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return take_rows(grads[0], ctx.saved_tensors[0]), None, None


def take_rows(x_ND: Tensor, index_M: Tensor) -> Tensor:
    """Rows [M, D] of x at the given indices, all different."""
    result: Tensor = _TakeRows.apply(x_ND, index_M)  # type: ignore[no-untyped-call]
    return result


def put_rows(x_MD: Tensor, index_M: Tensor, num_rows: int) -> Tensor:
    """[num_rows, D], zero but for row index[m] = x[m]; indices all different."""
    result: Tensor = _PutRows.apply(x_MD, index_M, num_rows)  # type: ignore[no-untyped-call]
    return result
