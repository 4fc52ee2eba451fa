"""Resizing keeps aspect and budget; patches hold the pixels they say, in block order."""

import numpy as np
import pytest
import torch

from foveate.errors import ImageError
from foveate.models.config import NANO
from foveate.models.image import Grid, image_grid, patch_coordinates, patchify, smart_resize


@pytest.mark.parametrize(("height", "width"), [(1500, 2000), (40, 3000), (28, 28), (5, 7), (1037, 1036), (2500, 311)])
def test_resize_keeps_the_budget_and_whole_blocks(height: int, width: int) -> None:
    h_px, w_px = smart_resize(height, width, factor=28, min_pixels=25088, max_pixels=200704)
    assert h_px % 28 == w_px % 28 == 0
    assert h_px * w_px <= 200704 or min(h_px, w_px) == 28
    if min(height, width) > 300:
        assert abs(h_px / w_px - height / width) / (height / width) < 0.12


def test_resize_refuses_slivers() -> None:
    with pytest.raises(ImageError, match="3000 x 10"):
        smart_resize(10, 3000, factor=28, min_pixels=1, max_pixels=10**9)


def test_first_view_of_nano_has_at_most_196_tokens() -> None:
    grid = image_grid(2000, 1500, NANO.vision, NANO.image)
    assert (grid.h, grid.w) == (24, 32)
    assert grid.num_tokens(2) == 192


def test_patches_hold_the_pixels_at_their_coordinates() -> None:
    grid, side = Grid(t=1, h=4, w=6), NANO.vision.patch_size
    pixels = np.random.default_rng(0).integers(0, 256, (4 * side, 6 * side, 3), dtype=np.uint8)
    patches = patchify(pixels[None], NANO.vision, NANO.image)
    for patch, (row, col) in zip(patches, patch_coordinates(grid, 2).tolist(), strict=True):
        wanted = pixels[row * side : (row + 1) * side, col * side : (col + 1) * side]
        got = ((patch.view(3, side, side).permute(1, 2, 0) * 0.5 + 0.5) * 255).round()
        assert torch.equal(got, torch.from_numpy(wanted).float())


def test_the_four_patches_of_a_block_are_neighbours() -> None:
    first = patch_coordinates(Grid(t=1, h=4, w=4), 2)[:4].tolist()
    assert first == [[0, 0], [0, 1], [1, 0], [1, 1]]
