"""Pictures are resized as Pillow does it, and patches are those of plain PyTorch, both bit for bit.

Proved of resizing: up and down, sides of one pixel, very wide and very tall pictures, sides that stay, both orders of
the passes, averages first, pictures in several blocks of memory, parts of a picture, on each instruction set; a Pillow
that does it in another way is noticed; borrowed bytes outlive their picture. Of patches: one frame and several, odd
patches. Of both: opcheck; equal bits with 1, 2 and 5 threads; what does not fit is named.
"""

import gc
import logging
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from needs import needs_native
from PIL import Image

from foveate import ops
from foveate.ops import picture as picture_ops
from foveate.ops.borrowed import borrowed

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
BICUBIC = Image.Resampling.BICUBIC
Size = tuple[int, int]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noisy(size: Size, seed: int = 0) -> Image.Image:
    """Every other seed gives black and white, which overshoots."""
    pixels_HW3 = noise(size[1], size[0], seed)
    return Image.fromarray((pixels_HW3 > 127).astype(np.uint8) * 255 if seed % 2 else pixels_HW3)


def assert_is_pillows(picture: Image.Image, size: Size, gap: float | None = None) -> None:
    wanted = np.asarray(picture.resize(size, BICUBIC, reducing_gap=gap))
    assert np.array_equal(ops.resize(picture, size, reducing_gap=gap), wanted)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((64, 48), (40, 30)), ((50, 33), (47, 32)), ((30, 20), (77, 61)), ((19, 90), (60, 11)), ((90, 19), (11, 60)),
        ((1, 1), (5, 7)), ((60, 50), (1, 1)), ((1, 90), (1, 13)), ((90, 1), (13, 1)), ((1, 40), (30, 1)),
        ((7, 300), (11, 40)), ((300, 7), (40, 11)), ((3, 500), (2, 9)), ((70000, 2), (300, 5)), ((2, 70000), (5, 300)),
        ((50, 40), (50, 13)), ((50, 40), (20, 40)), ((50, 40), (90, 40)), ((50, 40), (50, 90)), ((50, 40), (50, 40)),
    ],
)  # fmt: skip
def test_resizing_is_that_of_pillow(old: Size, new: Size, seed: int) -> None:
    assert_is_pillows(noisy(old, seed), new)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("gap", [None, 1.0, 2.0])
def test_random_sizes(gap: float | None) -> None:
    sides = np.random.default_rng(3).geometric(0.02, (60, 4)).tolist()
    for seed, (old_width, old_height, width, height) in enumerate(sides):
        assert_is_pillows(noisy((old_width, old_height), seed), (width, height), gap)


@pytest.mark.parametrize(
    ("old", "new", "gap"),
    [((401, 307), (50, 38), 2.0), ((900, 40), (30, 35), 1.0), ((40, 900), (35, 30), 1.3), ((640, 480), (80, 60), 2.0)],
)
def test_averages_come_first_as_in_pillow(old: Size, new: Size, gap: float) -> None:
    assert_is_pillows(noisy(old), new, gap)


@needs_native
@pytest.mark.parametrize(("old", "new"), [((2100, 2100), (300, 200)), ((1100, 4000), (900, 400))])
def test_pictures_in_several_blocks(old: Size, new: Size) -> None:
    picture = noisy(old)
    assert borrowed(picture) is None
    assert_is_pillows(picture, new)


def test_a_picture_that_lends_its_bytes_in_another_layout() -> None:
    """One number a pixel; more rows than there are bytes for, as if Pillow kept three of a pixel."""
    assert borrowed(noisy((6, 5)).convert("L")) is None
    picture = noisy((6, 5))
    lender = SimpleNamespace(width=6, height=7, __arrow_c_array__=picture.__arrow_c_array__)
    assert borrowed(cast(Image.Image, lender)) is None


@pytest.mark.parametrize("lends", [True, False])
def test_a_picture_in_bands(lends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noisy((100, 95))
    monkeypatch.setattr(picture_ops, "BAND_PIXELS", 1050)
    monkeypatch.setattr(picture_ops, "borrowed", lambda seen: borrowed(seen) if lends and seen.height < 95 else None)
    for new in ((30, 60), (130, 120), (90, 10)):
        assert_is_pillows(picture, new)


def test_a_pillow_that_does_it_in_another_way_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def rows_first(self: Image.Image, size: Size, resample: int, box: None = None, reducing_gap: None = None) -> object:
        return resize(resize(self, (size[0], self.height), resample), size, resample)

    resize, picture = Image.Image.resize, noisy((40, 90))
    monkeypatch.setattr(Image.Image, "resize", rows_first)
    picture_ops._pillow_agrees.cache_clear()
    with caplog.at_level(logging.WARNING, "foveate.ops"):
        assert_is_pillows(picture, (30, 20))
    assert ("does it in another way" in caplog.text) == ops.is_native()
    picture_ops._pillow_agrees.cache_clear()


def test_borrowed_bytes_outlive_their_picture() -> None:
    picture = noisy((60, 50))
    pixels, wanted = borrowed(picture), np.array(picture)
    del picture
    gc.collect()
    others = [noisy((60, 50), seed) for seed in range(9)]
    assert pixels is not None
    assert others
    assert np.array_equal(pixels[:, :, :3], wanted)


@needs_native
@pytest.mark.parametrize("columns_first", [True, False])
def test_part_of_a_strided_picture(columns_first: bool) -> None:
    pixels = torch.from_numpy(noise(50, 80))
    box = (3.3, 10.0, 30.25, 39.5)
    ours = torch.ops.foveate.resize(pixels[:, ::2].transpose(0, 1), 33, 24, box, columns_first)
    steps = [Image.fromarray(pixels[:, ::2].transpose(0, 1).contiguous().numpy())]
    for part in (columns_first, not columns_first):
        size = (steps[-1].width, 33) if part else (24, steps[-1].height)
        seen = (0, box[1], size[0], box[3]) if part else (box[0], 0, box[2], size[1])
        steps.append(steps[-1].resize(size, BICUBIC, box=seen))
    assert np.array_equal(ours, steps[-1])


@needs_native
@pytest.mark.usefixtures("threads", "isa")
@pytest.mark.parametrize("new", [(150, 120), (290, 40)])
def test_the_number_of_threads_changes_no_pixel(new: Size) -> None:
    picture = noisy((301, 203))
    runs = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        runs.append(ops.resize(picture, new))
    assert all(np.array_equal(runs[0], run) for run in runs[1:])


@needs_native
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(("height", "width"), [(16, 8), (7, 5), (16, 5), (7, 8)])
def test_opcheck_of_resizing(height: int, width: int, channels: int) -> None:
    pixels = torch.zeros(16, 8, channels, dtype=torch.uint8)
    box = [0.0, 0.0, 8.0, 16.0]
    torch.library.opcheck(torch.ops.foveate.resize.default, (pixels, height, width, box, False))


@needs_native
def test_what_cannot_be_resized_is_named() -> None:
    pixels, whole = torch.from_numpy(noise(16, 8)), (0, 0, 8, 16)
    resize = torch.ops.foveate.resize
    for wrong in (pixels[None], pixels.float(), pixels[:0], pixels[:, :, :2]):
        with pytest.raises(RuntimeError, match=r"pixels must be bytes \[H, W, 3 or 4\], got .*shape \["):
            resize(wrong, 4, 4, whole, False)
    for height, width in ((0, 4), (4, -1), (2**40, 4)):
        with pytest.raises(RuntimeError, match=f"height and width must be from 1 to .*, got {height} and {width}"):
            resize(pixels, height, width, whole, False)
    with pytest.raises(RuntimeError, match="box must be left, top, right and bottom, got 3 numbers"):
        resize(pixels, 4, 4, whole[:3], False)
    for box in ((0, 0, 9, 16), (-1, 0, 8, 16), (4, 0, 4, 16), (0, 9, 8, 8), (0, 0, 8, float("nan"))):
        with pytest.raises(RuntimeError, match=r"box must be a part of pixels of shape \[16, 8, 3\], got "):
            resize(pixels, 4, 4, box, False)


def test_what_is_no_picture_to_resize_is_named() -> None:
    with pytest.raises(ValueError, match="got a picture of mode L"):
        ops.resize(noisy((4, 4)).convert("L"), (2, 2))
    with pytest.raises(ValueError, match=r"a size of \(0, 2\)"):
        ops.resize(noisy((4, 4)), (0, 2))
    with pytest.raises(ValueError, match=r"a reducing_gap of 0.5; wanted RGB"):
        ops.resize(noisy((4, 4)), (2, 2), reducing_gap=0.5)


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
