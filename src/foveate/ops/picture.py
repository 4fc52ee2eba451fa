"""Pictures at another size, and their bytes as normalised patches in block order.

Shape letters: F frames, H W pixels, N patches, P values of a patch.
"""

import logging
from functools import cache, lru_cache

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as version
from torch import Tensor

from foveate.ops.borrowed import borrowed
from foveate.ops.native import is_native

BAND_PIXELS = 1 << 21
"""Of a picture that Pillow does not lend whole: 8 MB, which stay in the processor's own memory."""
_LOGGER = logging.getLogger("foveate.ops")


def resize(picture: Image.Image, size_px: tuple[int, int], *, reducing_gap: float | None = None) -> np.ndarray:
    """RGB bytes [H, W, 3] of an RGB picture at a width and height, bicubic: Pillow's, bit for bit; not to be written.

    Args:
        picture: of mode RGB.
        size_px: the width and height wanted.
        reducing_gap: None, or how many times larger than wanted at least a picture stays that Pillow first averages
            over whole squares.
    """
    if picture.mode != "RGB" or min(size_px) < 1 or (reducing_gap is not None and reducing_gap < 1):
        raise ValueError(
            f"got a picture of mode {picture.mode}, a size of {size_px} and a reducing_gap of {reducing_gap}; "
            "wanted RGB, sides of at least 1, and None or a gap of at least 1"
        )
    if picture.size == size_px:
        return np.asarray(picture)
    if is_native() and _pillow_agrees():
        return _resized(picture, size_px, reducing_gap)
    return np.asarray(picture.resize(size_px, Image.Resampling.BICUBIC, reducing_gap=reducing_gap))


@cache
def _pillow_agrees() -> bool:
    """Whether this Pillow computes what we do: until version 13 rows always came before columns."""
    square = Image.fromarray((np.arange(40 * 40 * 3) ** 3 % 251).astype(np.uint8).reshape(40, 40, 3))
    agrees = all(
        np.array_equal(_resized(square, size_px, None), np.asarray(square.resize(size_px, Image.Resampling.BICUBIC)))
        for size_px in ((9, 31), (31, 9))
    )
    if not agrees:
        _LOGGER.warning("foveate.ops: pictures are resized by Pillow, whose version %s does it in another way", version)
    return agrees


def _resized(picture: Image.Image, size_px: tuple[int, int], gap: float | None) -> np.ndarray:
    reduced, right, bottom = _reduced(picture, size_px, gap)
    width, height = size_px
    columns_first = reduced.height - height > 2 * max(0, reduced.width - width)  # Pillow's rule
    pixels = borrowed(reduced)
    if pixels is None and columns_first:
        pixels = torch.from_numpy(np.array(reduced))
    elif pixels is None:
        pixels, right = _narrowed(reduced, width, right), width
    out_HW3: Tensor = torch.ops.foveate.resize(pixels, height, width, (0, 0, right, bottom), columns_first)
    return out_HW3.numpy()


def _reduced(picture: Image.Image, size_px: tuple[int, int], gap: float | None) -> tuple[Image.Image, float, float]:
    """The picture, averaged over whole squares where it is much too large, and where its right and bottom are then."""
    sides_px = picture.size
    factors = [1 if gap is None else int(old / new / gap) or 1 for old, new in zip(sides_px, size_px, strict=True)]
    if max(factors) > 1:
        picture = picture.reduce((factors[0], factors[1]))
    return picture, sides_px[0] / factors[0], sides_px[1] / factors[1]


def _narrowed(picture: Image.Image, width: int, right: float) -> Tensor:
    """The picture with new rows [H, width, 3], made of bands, which Pillow lends."""
    out_HW3 = torch.empty(picture.height, width, 3, dtype=torch.uint8)
    step = BAND_PIXELS // picture.width or 1
    for top in range(0, picture.height, step):
        band = picture.crop((0, top, picture.width, min(top + step, picture.height)))
        pixels, height = borrowed(band), band.height
        if pixels is None:
            pixels = torch.from_numpy(np.array(band))
        out_HW3[top : top + step] = torch.ops.foveate.resize(pixels, height, width, (0, 0, right, height), False)
    return out_HW3


def patchify(
    pixels_FHW3: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...], *, patch: int, merge: int, depth: int
) -> Tensor:
    """Normalised patches [N, P] f32 in block order from RGB bytes with whole blocks; P runs colour, frame, y, x.

    Args:
        pixels_FHW3: one frame, which is repeated to the depth of a patch, or several that fill whole patches.
        mean: of each colour.
        std: of each colour.
        patch: side of a patch in pixels.
        merge: side of a block in patches.
        depth: frames of a patch.
    """
    pixels = torch.from_numpy(np.require(pixels_FHW3, requirements=("C", "W")))  # torch takes no read-only array
    if is_native():
        out_NP: Tensor = torch.ops.foveate.patchify(pixels, _table(mean, std), patch, merge, depth)
        return out_NP
    _, height, width, _ = pixels.shape
    x_FHW3 = _normalised(pixels, mean, std)
    if len(x_FHW3) == 1:
        x_FHW3 = x_FHW3.expand(depth, -1, -1, -1)
    side = patch * merge
    blocks = x_FHW3.reshape(-1, depth, height // side, merge, patch, width // side, merge, patch, 3)
    return blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 3 * depth * patch**2)


def _normalised(bytes_X3: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (bytes_X3.float() / 255.0 - torch.tensor(mean)) / torch.tensor(std)


@lru_cache(maxsize=8)
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """What each byte of each colour becomes, [3, 256]."""
    return _normalised(torch.arange(256)[:, None].expand(-1, 3), mean, std).T.contiguous()


def _fake_patchify(pixels: Tensor, table: Tensor, patch: int, merge: int, depth: int) -> Tensor:
    frames, height, width, _ = pixels.shape
    times = 1 if frames == 1 else frames // depth
    return table.new_empty((times * (height // patch) * (width // patch), 3 * depth * patch * patch))


def _fake_resize(pixels: Tensor, height: int, width: int, box: list[float], columns_first: bool) -> Tensor:
    return pixels.new_empty((height, width, 3))


if is_native():
    torch.library.register_fake("foveate::patchify", _fake_patchify)
    torch.library.register_fake("foveate::resize", _fake_resize)
