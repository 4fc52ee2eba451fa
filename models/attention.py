"""Attention over packed sequences: the seam that a native kernel takes.

Sequences (windows, images, conversations) lie one after another without padding. Neighbours of equal length form a run;
a run is a view of shape [count, length], so the plain PyTorch form below makes one scaled_dot_product_attention call
per run and moves no data. On a GPU one call of torch's flash attention takes all sequences of whatever lengths.
`take_rows` and `put_rows` bring rows into an order in which runs are long, and back.

Shape letters: T tokens, H heads, D head dimension.
"""

from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

SHORT = 64
"""Up to this length plain products are faster than the fused attention of torch's CPU build, above all backward."""


class Packing:
    """The lengths of the sequences of a packed batch, and its runs of neighbours of equal length."""

    def __init__(self, lengths: list[int]) -> None:
        """`lengths` of the sequences in order; empty sequences are allowed."""
        self.lengths = lengths
        self.runs = [(length, len(list(same))) for length, same in groupby(length for length in lengths if length)]
        self.run_sizes = [length * count for length, count in self.runs]
        self.longest = max(lengths, default=0)
        self._ends: dict[torch.device, Tensor] = {}

    def ends(self, device: torch.device) -> Tensor:
        """Where each sequence begins and the last one ends, [count + 1] int32, on a device."""
        if device not in self._ends:
            ends = list(accumulate(self.lengths, initial=0))
            self._ends[device] = torch.tensor(ends, dtype=torch.int32, device=device)
        return self._ends[device]


def packed_attention(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, packing: Packing, *, causal: bool = False) -> Tensor:
    """Softmax attention inside each packed sequence, [T, H, D] -> [T, H, D]; query heads may share key heads."""
    if q_THD.is_cuda and q_THD.dtype != torch.float32:
        return _flash_attention(q_THD, k_THD, v_THD, packing, causal)
    grouped = k_THD.shape[1] != q_THD.shape[1]
    outputs = []
    parts = zip(*(x.split(packing.run_sizes) for x in (q_THD, k_THD, v_THD)), strict=True)
    for (length, count), qkv in zip(packing.runs, parts, strict=True):
        q, k, v = (x.unflatten(0, (count, length)).transpose(1, 2) for x in qkv)
        if length <= SHORT and not causal and not grouped:
            out_BHLD = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v
        else:
            out_BHLD = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
        outputs.append(out_BHLD.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs) if outputs else q_THD


def _flash_attention(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, packing: Packing, causal: bool) -> Tensor:
    """The same on a GPU in half precision; what torch.nn.attention.varlen calls, whose arguments change by version."""
    flash = torch.ops.aten._flash_attention_forward  # noqa: SLF001
    ends, longest = packing.ends(q_THD.device), packing.longest
    qkv = (x.contiguous() for x in (q_THD, k_THD, v_THD))
    out_THD: Tensor = flash(*qkv, ends, ends, longest, longest, 0.0, causal, False)[0]
    return out_THD


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
