"""Norms: root-mean-square over the native operation, and the one with mean and bias for the towers that have it."""

from typing import Literal

import torch
from torch import Tensor, nn

from foveate import ops


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension; sums in f32."""

    def __init__(self, size: int, eps: float = 1e-6, gain: float = 1.0) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((size,), gain))

    def forward(self, x_TD: Tensor) -> Tensor:
        """[..., D] -> [..., D], same dtype."""
        return ops.rms_norm(x_TD, self.weight, self.eps)

    def of_sum(self, x_TD: Tensor, residual_TD: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of x + residual, and that sum, the next residual stream."""
        return ops.rms_norm(x_TD, self.weight, self.eps, residual_TD)


def make_norm(kind: Literal["rms", "layer"], size: int, eps: float) -> nn.Module:
    """The norm that a configuration names."""
    return RMSNorm(size, eps) if kind == "rms" else nn.LayerNorm(size, eps)
