"""Rows of packed sequences, brought into an order in which equal lengths are neighbours, and back.

Shape letters: N and M rows, D width.
"""

from typing import Any

import torch
from torch import Tensor


class _TakeRows(torch.autograd.Function):
    """Gather of different rows; its gradient puts rows back without the additions that autograd's own would make."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x_ND: Tensor, index_M: Tensor) -> Tensor:
        return x_ND.index_select(0, index_M)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], _output: Tensor) -> None:
        x_ND, index_M = inputs
        ctx.save_for_backward(index_M)
        ctx.save_for_forward(index_M)
        ctx.num_rows = len(x_ND)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return put_rows(grads[0], ctx.saved_tensors[0], ctx.num_rows), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return take_rows(tangents[0], ctx.saved_tensors[0])


class _PutRows(torch.autograd.Function):
    """The inverse of a gather; each is the other's gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x_MD: Tensor, index_M: Tensor, num_rows: int) -> Tensor:
        return x_MD.new_zeros(num_rows, *x_MD.shape[1:]).index_copy_(0, index_M, x_MD)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], _output: Tensor) -> None:
        _, index_M, ctx.num_rows = inputs
        ctx.save_for_backward(index_M)
        ctx.save_for_forward(index_M)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return take_rows(grads[0], ctx.saved_tensors[0]), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return put_rows(tangents[0], ctx.saved_tensors[0], ctx.num_rows)


def take_rows(x_ND: Tensor, index_M: Tensor) -> Tensor:
    """Rows [M, D] of x at the given indices, all different."""
    result: Tensor = _TakeRows.apply(x_ND, index_M)  # type: ignore[no-untyped-call]
    return result


def put_rows(x_MD: Tensor, index_M: Tensor, num_rows: int) -> Tensor:
    """[num_rows, D], zero but for row index[m] = x[m]; indices all different."""
    result: Tensor = _PutRows.apply(x_MD, index_M, num_rows)  # type: ignore[no-untyped-call]
    return result
