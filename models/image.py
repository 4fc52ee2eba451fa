"""From a picture to patches at its native resolution.

The picture keeps its aspect. Its sides are rounded to whole merged blocks and scaled only as far as the pixel budget
asks (the resize rule of Qwen2-VL). Patches come in block order: the merge_size x merge_size patches of one block are
neighbours in the sequence, so that merging is a reshape.

Shape letters: N patches, P values of a patch, H W pixels.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foveate import ops
from foveate.errors import ImageError
from foveate.models.config import ImageConfig, VideoConfig, VisionConfig

MAX_ASPECT = 200.0
MOST_PATCHES = 512
"""Of a side, where pictures are padded: Kimi-VL's processor refuses as many, its tower has positions for fewer."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Patches of an image: frames, rows and columns."""

    t: int
    h: int
    w: int

    @property
    def num_patches(self) -> int:
        """Patches in all frames."""
        return self.t * self.h * self.w

    def num_tokens(self, merge_size: int) -> int:
        """Tokens that the decoder sees."""
        return self.num_patches // merge_size**2


def smart_resize(
    height_px: int, width_px: int, *, factor: int, min_pixels: int, max_pixels: int, num_frames: int = 1, depth: int = 1
) -> tuple[int, int]:
    """Height and width, multiples of `factor`, near the given aspect and within the pixel budget.

    The budget is of `num_frames` together, which are seen in whole patches of `depth`. Raises ImageError when one side
    is more than 200 times the other.
    """
    if min(height_px, width_px) < 1 or max(height_px, width_px) / min(height_px, width_px) > MAX_ASPECT:
        raise ImageError(
            f"picture is {width_px} x {height_px} px, wanted sides that differ by at most {MAX_ASPECT:.0f}x"
        )
    h_px, w_px = (round(side / factor) * factor for side in (height_px, width_px))
    seen_px = round(num_frames / depth) * depth * h_px * w_px
    if seen_px > max_pixels:
        scale = math.sqrt(num_frames * height_px * width_px / max_pixels)
        h_px, w_px = (max(factor, math.floor(side / scale / factor) * factor) for side in (height_px, width_px))
    elif seen_px < min_pixels:
        scale = math.sqrt(min_pixels / (num_frames * height_px * width_px))
        h_px, w_px = (math.ceil(side * scale / factor) * factor for side in (height_px, width_px))
    return max(factor, h_px), max(factor, w_px)


def shrunk(height_px: int, width_px: int, *, patch_size: int, max_pixels: int) -> tuple[int, int]:
    """Height and width of a picture that is never enlarged and has at most max_pixels in whole patches (Kimi-VL)."""
    whole = (height_px // patch_size) * (width_px // patch_size) * patch_size**2
    if whole <= max_pixels:
        return height_px, width_px
    scale = math.sqrt(max_pixels / whole)
    return max(1, int(height_px * scale)), max(1, int(width_px * scale))


def image_grid(width_px: int, height_px: int, vision: VisionConfig, image: ImageConfig) -> Grid:
    """Grid that an image of this size will have."""
    factor = vision.patch_size * vision.merge_size
    if image.fit == "pad":
        sides_px = shrunk(height_px, width_px, patch_size=vision.patch_size, max_pixels=image.max_pixels)
        h_px, w_px = (math.ceil(side / factor) * factor for side in sides_px)
        if max(h_px, w_px) >= MOST_PATCHES * vision.patch_size:
            raise ImageError(
                f"picture is {width_px} x {height_px} px, wanted sides below {MOST_PATCHES * vision.patch_size} px, "
                "where this family's places end; crop or shrink it"
            )
    else:
        h_px, w_px = smart_resize(
            height_px, width_px, factor=factor, min_pixels=image.min_pixels, max_pixels=image.max_pixels
        )
    return Grid(t=1, h=h_px // vision.patch_size, w=w_px // vision.patch_size)


def resize(picture: Image.Image, grid: Grid, vision: VisionConfig, image: ImageConfig) -> np.ndarray:
    """RGB bytes [H, W, 3] of the picture at the size of its grid, bicubic; see ImageConfig.

    A reducing_gap of 2 makes very large pictures cheaper, without visible difference.
    """
    whole_px = size_px = (grid.w * vision.patch_size, grid.h * vision.patch_size)
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    if image.fit == "pad":
        height_px, width_px = shrunk(rgb.height, rgb.width, patch_size=vision.patch_size, max_pixels=image.max_pixels)
        size_px = (width_px, height_px)
    pixels_HW3 = ops.resize(rgb, size_px, reducing_gap=image.reducing_gap)
    return pixels_HW3 if size_px == whole_px else on_black(pixels_HW3, whole_px)


def on_black(pixels_HW3: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """A picture of this width and height, black where the pixels, which begin at its upper left, leave it."""
    width_px, height_px = size_px
    seen_HW3 = pixels_HW3[:height_px, :width_px]
    out_HW3 = np.zeros((height_px, width_px, 3), dtype=np.uint8)
    out_HW3[: seen_HW3.shape[0], : seen_HW3.shape[1]] = seen_HW3
    return out_HW3


def patchify(pixels_FHW3: np.ndarray, vision: VisionConfig, image: ImageConfig) -> Tensor:
    """Normalised patches [N, P] in block order from RGB bytes with whole blocks; P runs channel, frame, y, x.

    One frame is repeated to the depth of a patch; several fill whole patches.
    """
    return ops.patchify(
        pixels_FHW3, tuple(image.mean), tuple(image.std),
        patch=vision.patch_size, merge=vision.merge_size, depth=vision.temporal_patch_size,
    )  # fmt: skip


def clip_grid(
    width_px: int, height_px: int, num_frames: int, vision: VisionConfig, image: ImageConfig, video: VideoConfig
) -> Grid:
    """Grid that a video of so many frames of this size will have."""
    depth, factor = vision.temporal_patch_size, vision.patch_size * vision.merge_size
    padded = -(-num_frames // depth) * depth
    if video.max_clip_pixels is not None:
        share = video.max_clip_pixels * depth // padded
        most = max(min(video.max_pixels, share), int(video.min_pixels * 1.05))
        most = min(most, video.asked_pixels or most)
        limits = replace(image, min_pixels=min(video.min_pixels, most), max_pixels=most)
        grid = image_grid(width_px, height_px, vision, limits)
        return replace(grid, t=padded // depth)
    enlarged = max(1, factor / height_px, factor / width_px)
    h_px, w_px = smart_resize(
        int(height_px * enlarged), int(width_px * enlarged), factor=factor, min_pixels=video.min_pixels,
        max_pixels=video.max_pixels, num_frames=max(num_frames, depth), depth=depth,
    )  # fmt: skip
    return Grid(t=padded // depth, h=h_px // vision.patch_size, w=w_px // vision.patch_size)


@lru_cache(maxsize=512)
def patch_coordinates(grid: Grid, merge_size: int) -> Tensor:
    """Row and column [N, 2] of every patch, in block order, frame after frame; not to be changed."""
    m = merge_size
    rows = torch.arange(grid.h).reshape(grid.h // m, 1, m, 1).expand(-1, grid.w // m, -1, m)
    cols = torch.arange(grid.w).reshape(1, grid.w // m, 1, m).expand(grid.h // m, -1, m, -1)
    return torch.stack([rows.reshape(-1), cols.reshape(-1)], dim=-1).repeat(grid.t, 1)
