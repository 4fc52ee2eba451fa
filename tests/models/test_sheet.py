"""A sheet of pictures: none touches another, and convolutions see each as if it were alone, forward and backward."""

import torch

from foveate.models.config import NANO
from foveate.models.image import Grid
from foveate.models.sheet import COLUMNS, Sheet, shelves
from foveate.models.stem import ConvStem
from foveate.models.vision import of_each

GRIDS = [Grid(t=1, h=4, w=6), Grid(t=1, h=8, w=2), Grid(t=2, h=2, w=70), Grid(t=1, h=4, w=6), Grid(t=1, h=6, w=150)]


def test_pictures_keep_apart() -> None:
    frames = [Grid(t=1, h=grid.h, w=grid.w) for grid in GRIDS for _ in range(grid.t)]
    corners, rows = shelves(frames, 150)
    taken = torch.zeros(rows + 1, 151, dtype=torch.long)
    for (top, left), frame in zip(corners, frames, strict=True):
        taken[top : top + frame.h + 1, left : left + frame.w + 1] += 1
    assert taken.max() == 1
    sheet = Sheet(GRIDS, 2, torch.device("cpu"))
    assert sheet.columns == max(COLUMNS, 150)
    assert len(sheet.slots_N.unique()) == sum(grid.num_patches for grid in GRIDS) == int(sheet.covered_11RC.sum())


def test_convolutions_on_a_sheet_are_those_of_each_picture() -> None:
    torch.manual_seed(0)
    stem = ConvStem(NANO.vision)
    for mix in stem.mixes:
        torch.nn.init.normal_(mix.conv.weight, std=0.05)
    for conv in stem.convs:
        torch.nn.init.normal_(conv.bias)
    patches_NP = torch.randn(sum(grid.num_patches for grid in GRIDS), NANO.vision.patch_dim)
    results = []
    for run in (stem.one_by_one, stem.together):
        stem.zero_grad()
        cells = run(patches_NP, GRIDS)
        (cells * torch.linspace(-1, 1, cells.numel()).view_as(cells)).sum().backward()
        results.append([cells.detach(), *(p.grad for p in stem.parameters() if p.grad is not None)])
    assert len(results[0]) == 1 + 2 * len(stem.convs) + 3 * len(stem.mixes)
    for alone, together in zip(*results, strict=True):
        assert float((together - alone).norm() / alone.norm()) < 1e-4


def test_equal_grids_are_asked_once() -> None:
    asked = []

    def rows_of(grid: Grid) -> torch.Tensor:
        asked.append(grid)
        return torch.arange(grid.num_patches)[:, None] + 1000.0 * grid.w

    assert torch.equal(of_each(GRIDS, rows_of), torch.cat([rows_of(grid) for grid in GRIDS]))
    assert len(asked) == len(GRIDS) - 1 + len(GRIDS)
