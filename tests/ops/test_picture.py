"""Patches are those of plain PyTorch, bit for bit.

Proved: one frame and several, odd patches; opcheck; equal bits with 1, 2 and 5 threads; what does not fit is named.
"""

import numpy as np
import pytest
import torch
from needs import needs_native

from foveate import ops

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 32, 48), (4, 32, 16)])
@pytest.mark.parametrize(("patch", "merge"), [(8, 2), (16, 1), (4, 4)])
def test_patches_are_those_of_plain_pytorch(shape: tuple[int, int, int], patch: int, merge: int) -> None:
    pixels = np.stack([noise(*shape[1:], seed) for seed in range(shape[0])])
    ours = ops.patchify(pixels, MEAN, STD, patch=patch, merge=merge, depth=2)
    with ops.plain_pytorch():
        assert torch.equal(ours, ops.patchify(pixels, MEAN, STD, patch=patch, merge=merge, depth=2))


@needs_native
@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_changes_no_bit() -> None:
    pixels = noise(416, 512)[None]
    runs = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        runs.append(ops.patchify(pixels, MEAN, STD, patch=16, merge=2, depth=1))
    assert all(torch.equal(runs[0], run) for run in runs[1:])


@needs_native
def test_opcheck() -> None:
    pixels = torch.from_numpy(noise(16, 8))
    torch.library.opcheck(torch.ops.foveate.patchify.default, (pixels[None], torch.rand(3, 256), 4, 2, 2))


@needs_native
def test_what_does_not_fit_is_named() -> None:
    pixels, table = torch.from_numpy(noise(16, 8)), torch.rand(3, 256)
    patches = torch.ops.foveate.patchify
    with pytest.raises(RuntimeError, match=r"pixels must be contiguous bytes \[F, H, W, 3\], got shape \[16, 8, 3\]"):
        patches(pixels, table, 4, 2, 1)
    with pytest.raises(RuntimeError, match="pixels must fill blocks of 12 x 12"):
        patches(pixels[None], table, 6, 2, 1)
    for sizes in ((2**32, 2**32, 1), (4, 2, 2**62), (0, 2, 1)):
        with pytest.raises(RuntimeError, match="patch, merge and depth must fit a picture"):
            patches(pixels[None], table, *sizes)
    with pytest.raises(RuntimeError, match=r"table must be contiguous float32 \[3, 256\]"):
        patches(pixels[None], table[:, :9], 4, 2, 1)
