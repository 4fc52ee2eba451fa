"""Rotary positions: two-dimensional in the tower, multimodal (time, height, width) in the decoder.

Both build cosine and sine tables once per sequence, for `foveate.ops.rotate`. Pairs are split in halves (element i with
i + D/2), as in the Qwen families.

Shape letters: T tokens, N patches, H heads, D head dimension.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from foveate.models.config import YarnConfig
from foveate.models.image import Grid
from foveate.ops import Tables


def _frequencies(num: int, theta: float, device: torch.device) -> Tensor:
    return theta ** -(torch.arange(num, dtype=torch.float32, device=device) / num)


def yarn_frequencies(num: int, theta: float, yarn: YarnConfig, device: torch.device) -> Tensor:
    """Frequencies [num] of pairs for a longer context, as transformers has them; see YarnConfig."""
    first, last = (
        num * math.log(yarn.context / (turns * math.tau)) / math.log(theta) for turns in (yarn.fast, yarn.slow)
    )
    if yarn.whole:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * num - 1)
    slowed_F = ((torch.arange(num, device=device) - first) / max(last - first, 0.001)).clamp(0, 1)
    return _frequencies(num, theta, device) * (1 - slowed_F + slowed_F / yarn.factor)


def vision_tables(coordinates_N2: Tensor, head_dim: int, theta: float) -> Tables:
    """Tables [N, D/2] whose first half turns with the row and second half with the column (Qwen2-VL)."""
    angles_N2F = coordinates_N2[:, :, None].float() * _frequencies(head_dim // 4, theta, coordinates_N2.device)
    angles = angles_N2F.flatten(1)
    return angles.cos(), angles.sin()


def mrope_axes(section: tuple[int, int, int], interleaved: bool) -> Tensor:
    """Which axis turns each pair [D/2]: 0 time, 1 height, 2 width; `section` counts the pairs of each.

    In bands (Qwen2-VL) the last axis gets the slowest pairs only, so neighbouring columns look alike; interleaved
    (Qwen3-VL) every axis has fast and slow pairs, and what is left over at the slow end is time's.
    """
    if not interleaved:
        return torch.repeat_interleave(torch.arange(3), torch.tensor(section))
    axes = torch.zeros(sum(section), dtype=torch.long)
    for axis in (1, 2):
        axes[axis : 3 * section[axis] : 3] = axis
    return axes


def mrope_tables(
    positions_3T: Tensor,
    section: tuple[int, int, int],
    theta: float,
    *,
    interleaved: bool = False,
    share: float = 1.0,
    yarn: YarnConfig | None = None,
) -> Tables:
    """Tables [T, D/2] of positions that differ by axis (see `mrope_axes`); only the fastest `share` of pairs turn."""
    num_pairs, device = sum(section), positions_3T.device
    pairs = torch.arange(num_pairs, device=device)
    turning = pairs < share * num_pairs
    frequencies_F = yarn_frequencies(num_pairs, theta, yarn, device) if yarn else _frequencies(num_pairs, theta, device)
    angles_3TF = positions_3T[:, :, None].float() * (frequencies_F * turning)
    axes = mrope_axes(section, interleaved).to(device)
    angles_TF = angles_3TF[axes, :, pairs].T
    gain = yarn.gain if yarn else 1.0
    return gain * angles_TF.cos(), gain * angles_TF.sin()


class Span(NamedTuple):
    """An image or a video in a conversation."""

    grid: Grid
    step: float = 1.0
    """Positions from one patch in time to the next."""


def image_positions(span: Span, merge_size: int, start: int) -> Tensor:
    """M-RoPE positions [3, T] of an image's tokens whose first token stands at `start`."""
    grid = span.grid
    times = (torch.arange(grid.t) * span.step).long()
    rows, columns = torch.arange(grid.h // merge_size), torch.arange(grid.w // merge_size)
    axes = torch.meshgrid(times, rows, columns, indexing="ij")
    return torch.stack([axis.reshape(-1) for axis in axes]) + start


def sequence_positions(spans: list[int | Span], merge_size: int) -> Tensor:
    """M-RoPE positions [3, T] of a conversation.

    `spans` lists its parts in order: a number of text tokens, or an image. Text has three equal ids; after an image the
    next text token stands one past the largest id so far (Qwen2-VL's rule; transformers 5.24 goes on one past the
    largest row or column, which overlaps with the times of a long video).
    """
    parts, start = [torch.zeros(3, 0, dtype=torch.long)], 0
    for span in spans:
        if isinstance(span, Span):
            part = image_positions(span, merge_size, start)
        else:
            part = torch.arange(start, start + span).expand(3, -1)
        parts.append(part)
        start = int(part.max()) + 1 if part.numel() else start
    return torch.cat(parts, dim=1)
