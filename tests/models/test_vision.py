"""The tower treats packed images as it treats each alone, and windows are what they say."""

from dataclasses import replace

import pytest
import torch

from foveate.errors import ConfigError
from foveate.models.config import NANO, TINY
from foveate.models.image import Grid, patch_coordinates
from foveate.models.vision import VisionTower, sincos_positions, window_order

GRIDS = [Grid(t=1, h=18, w=26), Grid(t=1, h=2, w=2), Grid(t=1, h=8, w=8), Grid(t=2, h=4, w=6)]


@pytest.mark.parametrize("preset", [TINY, NANO], ids=["linear", "conv"])
def test_packed_images_equal_single_images(preset: type[TINY]) -> None:
    torch.manual_seed(0)
    tower = VisionTower(preset.vision, 32).eval()
    parts = [torch.randn(grid.num_patches, preset.vision.patch_dim) for grid in GRIDS]
    words = torch.randn(preset.decoder.vocab_size, 32)
    with torch.inference_mode():
        packed = tower(torch.cat(parts), GRIDS, words)
        alone = torch.cat([tower(part, [grid], words) for part, grid in zip(parts, GRIDS, strict=True)])
    assert packed.shape == (sum(grid.num_tokens(2) for grid in GRIDS), 32)
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-4)


def test_every_window_is_a_rectangle_of_at_most_8_by_8_patches() -> None:
    order, lengths = window_order(GRIDS, NANO.vision)
    assert sorted(order.tolist()) == list(range(sum(grid.num_patches for grid in GRIDS)))
    coordinates = torch.cat([patch_coordinates(grid, 2) for grid in GRIDS])[order]
    for window in coordinates.split(lengths):
        height, width = (int(axis.max() - axis.min()) + 1 for axis in window.unbind(-1))
        assert height <= 8
        assert width <= 8
        assert height * width == len(window)
        assert len({tuple(pair) for pair in window.tolist()}) == len(window)


def test_window_layers_do_not_see_other_windows() -> None:
    torch.manual_seed(0)
    config = TINY.vision.__class__(
        hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, full_attention_layers=()
    )
    tower, grid = VisionTower(config, 32).eval(), Grid(t=1, h=8, w=16)
    patches = torch.randn(grid.num_patches, config.patch_dim)
    changed = patches.clone()
    right = patch_coordinates(grid, 2)[:, 1] >= 8
    changed[right] += 1.0
    with torch.inference_mode():
        before, after = tower.encode(patches, [grid]), tower.encode(changed, [grid])
    torch.testing.assert_close(before[~right], after[~right])
    assert not torch.allclose(before[right], after[right])


def test_positions_at_the_output_say_where_a_token_stands_on_any_grid() -> None:
    torch.manual_seed(0)
    tower = VisionTower(NANO.vision, 256).eval()
    small, large = Grid(t=1, h=8, w=12), Grid(t=1, h=20, w=30)
    blank = [torch.zeros(grid.num_patches, NANO.vision.patch_dim) for grid in (small, large)]
    with torch.inference_mode():
        tokens, finer = (
            tower(part, [grid], torch.randn(1024, 256)) for part, grid in zip(blank, (small, large), strict=True)
        )
        plain = tower.merger(tower.encode(blank[0], [small]))
    torch.testing.assert_close(plain.square().mean(-1), torch.ones(24), atol=1e-3, rtol=1e-3)
    added = (tokens - plain).unflatten(0, (4, 6))
    assert 0.2 < added.square().mean().sqrt() < 0.8
    assert not torch.allclose(added[0, 0], added[0, 1], atol=0.05)
    assert not torch.allclose(added[0, 0], added[1, 0], atol=0.05)
    assert finer.shape == (150, 256)


def test_positions_start_smooth() -> None:
    table_SSD = sincos_positions(16, 64)
    near = (table_SSD[:, 1:] - table_SSD[:, :-1]).square().mean()
    far = (table_SSD[:, 8:] - table_SSD[:, :-8]).square().mean()
    assert near < 0.6 * far


def test_convolutions_see_across_the_borders_of_patches_and_not_across_images() -> None:
    torch.manual_seed(0)
    stem, grid = VisionTower(NANO.vision, 256).eval().stem, Grid(t=1, h=4, w=4)
    patches = torch.randn(2 * grid.num_patches, NANO.vision.patch_dim)
    changed = patches.clone()
    changed[0] += 1.0
    with torch.inference_mode():
        moved_N = (stem(patches, [grid, grid]) - stem(changed, [grid, grid])).abs().amax(-1) > 1e-6
    assert moved_N[:4].all()
    assert not moved_N[grid.num_patches :].any()


def test_a_patch_that_the_convolutions_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="patch_size 14 with 3 stem_channels, wanted a multiple of 8"):
        replace(NANO.vision, patch_size=14)
