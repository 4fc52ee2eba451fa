"""A picture at another size beside Pillow, whose bytes are the same, and torch, whose bytes differ by up to 2.

Ours and Pillow begin with a picture and end with an array, as models do; torch begins with an array of planes.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from foveate.benchmarks.measure import SETS, Case
from foveate.ops import resize

SIZES_PX = (
    ((2500, 1800), (1036, 756)),
    ((4000, 3000), (1036, 1036)),
    ((1036, 1036), (1008, 1008)),
    ((600, 400), (1204, 812)),
)


def cases() -> Iterator[Case]:
    """Photographs, a screen, and a small picture that grows."""
    for old_px, new_px in SIZES_PX:
        yield case(old_px, new_px)


def case(old_px: tuple[int, int], new_px: tuple[int, int]) -> Case:
    """Random pixels of one width and height to another."""
    (old_width, old_height), (width, height) = old_px, new_px
    draw = np.random.default_rng(0)
    pixels = [draw.integers(0, 256, (old_height, old_width, 3), dtype=np.uint8) for _ in range(SETS)]
    pictures = [Image.fromarray(pixels_HW3) for pixels_HW3 in pixels]
    planes = [torch.from_numpy(pixels_HW3).permute(2, 0, 1)[None] for pixels_HW3 in pixels]
    return Case(
        op="resize",
        shape=f"{old_width} x {old_height} to {width} x {height}",
        dtype="uint8",
        ours=lambda number: resize(pictures[number], new_px),
        peers={
            "Pillow": lambda number: np.asarray(pictures[number].resize(new_px, Image.Resampling.BICUBIC)),
            "torch": lambda number: F.interpolate(planes[number], (height, width), mode="bicubic", antialias=True),
        },
        moved=3 * (old_width * old_height + width * height),
    )
