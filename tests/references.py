"""What each native operation must equal: plain PyTorch, step by step, in the precision of its inputs.

Call a reference with f32 (or f64) inputs for the value to compare with, and with bf16 inputs for the error that plain
PyTorch makes in the same dtype.
"""

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide x [..., D] by its root mean square, then multiply by weight [D]."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the same on x + residual, and x + residual itself."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def assert_as_exact_as_torch(ours: Tensor, plain: Tensor, reference: Tensor) -> None:
    """Check that the largest error of `ours` is at most twice that of `plain`, plus the rounding of one result.

    All three have one shape; `ours` and `plain` have one dtype, `reference` is wider.
    """
    assert ours.dtype == plain.dtype
    assert ours.shape == reference.shape
    if ours.numel() == 0:
        return
    wide = reference.double()
    error = (ours.double() - wide).abs().max().item()
    allowed = (plain.double() - wide).abs().max().item()
    floor = torch.finfo(ours.dtype).eps * wide.abs().max().item()
    assert error <= 2 * allowed + floor, f"error {error:.3e}, plain PyTorch's {allowed:.3e}, floor {floor:.3e}"
