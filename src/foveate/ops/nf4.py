"""Weights in NormalFloat4 with a scale for each 64: a quarter of bf16 to read, and an eighth more for the scales.

Source: QLoRA, Dettmers et al., arXiv 2305.14314, section 3: 16 quantiles of a normal distribution between -1 and 1,
with an exact 0; a group's largest number becomes 1. Deviation: the quantiles are rounded to 127ths, so that they are
whole numbers times a scale, and the scales stay f32.

Shape letters: R rows, D width, G groups of a row.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.ops.native import SERVED, has_kernels, is_native

GROUP = 64
"""Weights that share a scale."""
HALF = GROUP // 2
"""Byte i of a group holds weight i and, in its upper half, weight 32 + i."""
LEVELS = torch.tensor([-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127])
"""What a code of 4 bits stands for, in 127ths: whole numbers, which every dtype holds exactly."""


class Nf4Rows(NamedTuple):
    """Weights [..., R, D] rounded to 4 bits, each group of 64 by a scale of its own."""

    codes: Tensor
    """[..., R, D / 2] uint8."""
    scales: Tensor
    """[..., R, G] f32."""

    @classmethod
    def of(cls, weights_RD: Tensor) -> "Nf4Rows":
        """The nearest. The matrices of experts are rounded one after the other.

        Raises:
            InputError: rows are no multiple of 64 wide (see `fits`), or a number is not finite.
        """
        if weights_RD.dim() > 2:
            codes, scales = zip(*map(cls.of, weights_RD), strict=True)
            return cls(torch.stack(codes), torch.stack(scales))
        if not cls.fits(weights_RD):
            raise InputError(f"got weights {list(weights_RD.shape)}, wanted rows of a multiple of {GROUP}; take int8")
        wide_RGN = weights_RD.detach().float().unflatten(-1, (-1, GROUP))
        scales_RG = wide_RGN.abs().amax(-1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        if not scales_RG.isfinite().all():
            row = int(scales_RG.isfinite().logical_not().any(-1).nonzero()[0])
            raise InputError(
                f"row {row} of weights {list(weights_RD.shape)} has a number that is not finite; "
                "load the model without :nf4, or mend its weights"
            )
        between = ((LEVELS[1:] + LEVELS[:-1]) / 2).to(weights_RD.device)
        codes_RD = torch.bucketize(wide_RGN / scales_RG[..., None], between).to(torch.uint8).flatten(-2)
        low, high = codes_RD.unflatten(-1, (-1, 2, HALF)).unbind(-2)
        return cls((low | high << 4).flatten(-2), scales_RG)

    @staticmethod
    def fits(weights: Tensor) -> bool:
        """Whether the rows of weights are whole groups."""
        return weights.shape[-1] > 0 and weights.shape[-1] % GROUP == 0

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weights as numbers, [..., R, D]."""
        if self.codes.is_cpu and has_kernels(self.codes.device) and dtype in SERVED:
            codes, scales = self.codes.contiguous(), self.scales.contiguous()
            numbers_RD: Tensor = torch.ops.foveate.nf4_numbers(codes, scales, dtype == torch.bfloat16)
            return numbers_RD
        groups_RGH = self.codes.unflatten(-1, (-1, HALF)).int()
        codes_RGN = torch.cat([groups_RGH & 15, groups_RGH >> 4], dim=-1)
        levels_RGN = LEVELS.to(self.codes.device, torch.promote_types(dtype, torch.float32))[codes_RGN]
        return (levels_RGN * self.scales.to(levels_RGN.dtype)[..., None]).flatten(-2).to(dtype)

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Nf4Rows":
        """On the device that `move` takes a tensor to, which is all that may change."""
        codes = move(self.codes)
        return Nf4Rows(codes, self.scales.to(codes.device))

    def each(self) -> "list[Nf4Rows]":
        """Along the first dimension."""
        return [Nf4Rows(*pair) for pair in zip(self.codes, self.scales, strict=True)]


def _fake(codes: Tensor, scales: Tensor, bf16: bool) -> Tensor:
    shape = (*codes.shape[:-1], 2 * codes.shape[-1])
    return codes.new_empty(shape, dtype=torch.bfloat16 if bf16 else torch.float32)


if is_native():
    torch.library.register_fake("foveate::nf4_numbers", _fake)
