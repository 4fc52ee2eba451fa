"""The windows of a picture as Qwen2.5-VL's tower sees it: windows of 8 x 8 patches, 112 px, and 16 heads of 80.

Shape letters: T patches, C width of a projection, W windows, H heads, L patches of a window, D head dimension.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from foveate.benchmarks.measure import SETS
from foveate.ops import Packing, Tables

HEADS, HEAD_DIM = 16, 80
WIDTH = HEADS * HEAD_DIM
SIDE = 74
"""Patches of a side, of a picture of 1036 x 1036 px."""
WINDOW = 8
SHORT = 64
"""Patches of a window that torch multiplies faster in plain products."""


def window_lengths(side: int) -> list[int]:
    """Patches of each window of a square picture; those at two of its edges are cut."""
    whole, rest = divmod(side, WINDOW)
    cut = [WINDOW * rest] * (2 * whole) + [rest**2] if rest else []
    return [WINDOW**2] * whole**2 + cut


def tables(num_tokens: int) -> Tables:
    """Cosines and sines of some angles."""
    angles_TF = torch.randn(num_tokens, HEAD_DIM // 2, generator=torch.Generator().manual_seed(1)) * 3
    return angles_TF.cos(), angles_TF.sin()


def projections(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
    """SETS packed projections [T, 3 * WIDTH]."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(num_tokens, 3 * WIDTH, generator=generator).to(dtype) for _ in range(SETS)]


def by_torch(qkv_TC: Tensor, angles: Tables, packing: Packing) -> Tensor:
    """What one writes with torch: turn all heads, then attention for each run of equal windows at once.

    Two products and a softmax where windows are short: torch's fused attention took 56 ms for these windows where they
    take 48 (2026-11-29).
    """
    q, k, v = qkv_TC.unflatten(-1, (3, HEADS, -1)).unbind(1)
    cos, sin = (table.to(q.dtype)[:, None] for table in angles)
    turned = []
    for x in (q, k):
        first, second = x.chunk(2, dim=-1)
        turned.append(torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1))
    outputs = []
    parts = zip(*(x.split(packing.run_sizes) for x in (*turned, v)), strict=True)
    for (length, count), part in zip(packing.runs, parts, strict=True):
        q_WHLD, k_WHLD, v_WHLD = (x.unflatten(0, (count, length)).transpose(1, 2) for x in part)
        if length <= SHORT:
            out_WHLD = (q_WHLD @ k_WHLD.mT * HEAD_DIM**-0.5).softmax(-1) @ v_WHLD
        else:
            out_WHLD = scaled_dot_product_attention(q_WHLD, k_WHLD, v_WHLD)
        outputs.append(out_WHLD.transpose(1, 2).flatten(0, 1).flatten(1))
    return torch.cat(outputs)
