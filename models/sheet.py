"""Many pictures on one sheet, so that a convolution sees all of them in one call.

A picture keeps a patch free to its right and below it. Outside the pictures a sheet is zero and stays zero (see
`keep`), so each picture meets the same borders as when it is alone. On a GPU that is worth the empty places, about a
fifth: there a batch of pictures of many sizes costs calls, not numbers.

Shape letters: N patches of all pictures in block order, R C rows and columns of the sheet in patches, D width, Y X
cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.models.image import Grid, patch_coordinates

COLUMNS = 128
"""Patches side by side on a sheet, unless a picture is wider."""
ROUND_ROWS = 32
"""A sheet has a multiple of so many rows: matrix libraries choose a kernel for each new shape."""


class Sheet:
    """Where the patches of pictures lie on their sheet."""

    def __init__(self, grids: Sequence[Grid], merge_size: int, device: torch.device) -> None:
        frames = [Grid(t=1, h=grid.h, w=grid.w) for grid in grids for _ in range(grid.t)]
        self.columns = max([COLUMNS, *(frame.w for frame in frames)])
        corners, used = shelves(frames, self.columns)
        self.rows = -(-used // ROUND_ROWS) * ROUND_ROWS
        counts = torch.tensor([frame.num_patches for frame in frames])
        places_N2 = torch.cat([patch_coordinates(frame, merge_size) for frame in frames])
        places_N2 = places_N2 + torch.tensor(corners).repeat_interleave(counts, dim=0)
        self.slots_N = (places_N2[:, 0] * self.columns + places_N2[:, 1]).to(device)
        """Number of each patch's place, row by row."""
        covered = torch.zeros(self.rows * self.columns, device=device).index_fill_(0, self.slots_N, 1.0)
        self.covered_11RC = covered.view(1, 1, self.rows, self.columns)

    def keep(self, x_1DYX: Tensor) -> Tensor:
        """Cells [1, D, Y, X] of the whole sheet with zeros outside the pictures."""
        covered_11YX = F.interpolate(self.covered_11RC, x_1DYX.shape[2:], mode="nearest")
        return x_1DYX * covered_11YX.to(x_1DYX.dtype)


def shelves(frames: Sequence[Grid], columns: int) -> tuple[list[tuple[int, int]], int]:
    """The first row and column of each frame on a sheet so wide, the tallest first, and the rows used in all."""
    corners = [(0, 0)] * len(frames)
    top = left = bottom = 0
    for number in sorted(range(len(frames)), key=lambda number: -frames[number].h):
        frame = frames[number]
        if left + frame.w > columns:
            top, left = bottom + 1, 0
        corners[number] = (top, left)
        bottom = max(bottom, top + frame.h)
        left += frame.w + 1
    return corners, bottom
