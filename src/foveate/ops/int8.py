"""Weights in int8 with a scale for each row: a quarter of f32 to read, half of bf16.

Shape letters: R rows, D width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from foveate.errors import InputError


class Int8Rows(NamedTuple):
    """Weights [..., R, D] rounded to int8, each row by a scale of its own."""

    values: Tensor
    """int8."""
    scales: Tensor
    """[..., R] f32: row r is scales[r] * values[r]."""

    @classmethod
    def of(cls, weights_RD: Tensor) -> "Int8Rows":
        """The nearest: a row's largest number becomes 127. The matrices of experts are rounded one after the other.

        Raises:
            InputError: a number is not finite.
        """
        if weights_RD.dim() > 2:
            values, scales = zip(*map(cls.of, weights_RD), strict=True)
            return cls(torch.stack(values), torch.stack(scales))
        wide_RD = weights_RD.detach().float()
        largest_R = wide_RD.abs().amax(-1)
        if not largest_R.isfinite().all():
            row = int(largest_R.isfinite().logical_not().nonzero()[0])
            raise InputError(
                f"row {row} of weights {list(weights_RD.shape)} has {float(largest_R[row])}; "
                "int8 wants finite numbers: load the model without :int8, or mend its weights"
            )
        scales_R = largest_R.clamp_min(torch.finfo(torch.float32).tiny) / 127
        return cls((wide_RD / scales_R[:, None]).round_().to(torch.int8), scales_R)

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weights as numbers, [..., R, D]."""
        return (self.values.float() * self.scales[..., None]).to(dtype)

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Int8Rows":
        """On the device that `move` takes a tensor to, which is all that may change."""
        values = move(self.values)
        return Int8Rows(values, self.scales.to(values.device))

    def each(self) -> "list[Int8Rows]":
        """Along the first dimension."""
        return [Int8Rows(*pair) for pair in zip(self.values, self.scales, strict=True)]
