"""Bytes of pictures to normalised patches in block order.

Shape letters: F frames, H W pixels, N patches, P values of a patch.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from foveate.ops.native import is_native


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
    pixels = torch.from_numpy(np.array(pixels_FHW3, order="C"))  # a copy: what Pillow gives cannot be written to
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


if is_native():
    torch.library.register_fake("foveate::patchify", _fake_patchify)
