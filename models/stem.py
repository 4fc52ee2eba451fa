"""How pixels become patches' vectors: one matrix a patch, or convolutions over the whole picture.

The convolutions see across the borders of patches: a stroke that two patches share is one stroke to them, where a
network that sees each patch alone has two (docs/log.md has what was seen of both).

Shape letters: N patches, P values of a patch, D width, C channels, H W pixels, Y X cells after the last convolution.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.models.config import VisionConfig
from foveate.models.image import Grid
from foveate.models.norm import RMSNorm
from foveate.models.sheet import Sheet
from foveate.ops import put_rows, take_rows


class ResidualConv(nn.Module):
    """A convolution of stride 1 beside the identity, which is all that a new one does."""

    def __init__(self, channels: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, norm_eps)
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_TCYX: Tensor) -> Tensor:
        """[T, C, Y, X] -> [T, C, Y, X]."""
        normed_TCYX = self.norm(x_TCYX.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x_TCYX + F.silu(self.conv(normed_TCYX))


class ConvStem(nn.Module):
    """Convolutions of stride 2, then some of stride 1, then one matrix over each patch's cells."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_size, self.merge_size = config.patch_size, config.merge_size
        self.frames = config.temporal_patch_size
        channels = (3 * self.frames, *config.stem_channels)
        self.cells = config.patch_size >> len(config.stem_channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1) for before, after in pairwise(channels)
        )
        self.mixes = nn.Sequential(*(ResidualConv(channels[-1], config.norm_eps) for _ in range(config.stem_mixes)))
        self.proj = nn.Linear(channels[-1] * self.cells**2, config.hidden_size)

    def forward(self, patches_NP: Tensor, grids: list[Grid]) -> Tensor:
        """Patches of all images, in block order, [N, P] -> [N, D]."""
        if patches_NP.is_cuda:
            return self.proj(self.together(patches_NP, grids))
        return self.proj(self.one_by_one(patches_NP, grids))

    def one_by_one(self, patches_NP: Tensor, grids: list[Grid]) -> Tensor:
        """The last features under each patch of all images [N, cells * cells * C], in block order."""
        images = patches_NP.split([grid.num_patches for grid in grids])
        return torch.cat([self._cells(image_NP, grid) for image_NP, grid in zip(images, grids, strict=True)])

    def together(self, patches_NP: Tensor, grids: list[Grid]) -> Tensor:
        """The same, with all images on one sheet."""
        sheet = Sheet(grids, self.merge_size, patches_NP.device)
        shape = (sheet.rows, sheet.columns, 3 * self.frames, self.patch_size, self.patch_size)
        x_RCDPP = put_rows(patches_NP, sheet.slots_N, sheet.rows * sheet.columns).view(shape)
        x_1DHW = x_RCDPP.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)[None]
        x_1DYX = self._convolved(x_1DHW, sheet.keep)
        cells = x_1DYX[0].unflatten(2, (-1, self.cells)).unflatten(1, (-1, self.cells)).permute(1, 3, 2, 4, 0)
        return take_rows(cells.flatten(0, 1).flatten(1), sheet.slots_N)

    def _convolved(self, x_TCHW: Tensor, keep: Callable[[Tensor], Tensor]) -> Tensor:
        """The last features [T, C, Y, X] of pictures; `keep` takes what each layer gives."""
        x_TCYX = x_TCHW.contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x_TCYX = keep(F.silu(conv(x_TCYX)))
        for mix in self.mixes:
            x_TCYX = keep(mix(x_TCYX))
        return x_TCYX

    def _cells(self, patches_NP: Tensor, grid: Grid) -> Tensor:
        """The last features under each patch of one image."""
        x_TCYX = self._convolved(self._picture(patches_NP, grid), lambda x: x)
        m, s = self.merge_size, self.cells
        blocks = x_TCYX.unflatten(3, (-1, m, s)).unflatten(2, (-1, m, s))
        return blocks.permute(0, 2, 5, 3, 6, 4, 7, 1).flatten(0, 4).flatten(1)

    def _picture(self, patches_NP: Tensor, grid: Grid) -> Tensor:
        """The pixels [T, C, H, W] that patches in block order were cut from; the frames of a patch are channels."""
        m, p = self.merge_size, self.patch_size
        blocks = patches_NP.view(grid.t, grid.h // m, grid.w // m, m, m, 3 * self.frames, p, p)
        return blocks.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(grid.t, 3 * self.frames, grid.h * p, grid.w * p)


class LinearStem(nn.Linear):
    """One matrix over the pixels of each patch (Qwen2-VL, MoonViT)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config.patch_dim, config.hidden_size, bias=config.stem_bias)

    def forward(self, patches_NP: Tensor, _: list[Grid] | None = None) -> Tensor:
        """[N, P] -> [N, D]."""
        return super().forward(patches_NP)
