"""Rotary positions applied: pairs (element i with i + D/2) turn by their token's angles.

Shape letters: T tokens, H heads, D head dimension.
"""

import torch
from torch import Tensor

Tables = tuple[Tensor, Tensor]
"""Cosines and sines [T, D/2] of the angles, f32."""


def rotate(x_THD: Tensor, tables: Tables) -> Tensor:
    """Turn every head of x by its token's angles, in the dtype of x."""
    cos, sin = (table.to(x_THD.dtype)[:, None, :] for table in tables)
    first, second = x_THD.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
