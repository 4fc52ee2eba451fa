"""Pictures from strangers: the six formats open upright as RGB; everything else is an ImageError, fast and small."""

import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from foveate.errors import ImageError
from foveate.pictures import FORMATS, MAX_BYTES, STRIP_PIXELS
from foveate.tools import open_picture, sha256_of_pixels

PICTURE = Image.fromarray(np.add.outer(np.arange(24) * 9, np.arange(32) * 1)[..., None].repeat(3, 2).astype(np.uint8))


OPEN = """
import re, sys, time
from pathlib import Path
from foveate.errors import ImageError
from foveate.tools import open_picture
data = sys.stdin.buffer.read()
def peak_kib():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
start, before = time.perf_counter(), peak_kib()
try:
    open_picture(data)
except ImageError as error:
    print(error)
print(time.perf_counter() - start)
print(peak_kib() - before)
"""
"""A process of its own: the buffers of Pillow are no objects of Python, and ru_maxrss begins with its parent's."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int, pixels: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_the_six_formats_open(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.bin"  # the name says nothing
    path.write_bytes(encoded(PICTURE, kind))
    for source in (path, str(path), path.read_bytes()):
        opened = open_picture(source)
        assert (opened.mode, opened.size, type(opened)) == ("RGB", (32, 24), Image.Image)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    rows = zlib.compress(bytes(13_000 * (1 + 13_000 // 8)), 9)
    run = subprocess.run(
        [sys.executable, "-c", OPEN], input=png_of_size(13_000, 13_000, rows), capture_output=True, check=True
    )
    said, seconds, kib = run.stdout.decode().splitlines()
    assert "13000 x 13000 = 169,000,000 pixels; give at most 100,000,000" in said
    assert float(seconds) < 0.5  # 1 ms; the margin is for a busy machine
    assert int(kib) < 20 * 2**10


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "DDS"])
def test_what_pillow_knows_beside_the_six_is_refused(kind: str) -> None:
    data = encoded(PICTURE, kind)
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()  # it is a sound one
    with pytest.raises(ImageError, match="the picture is not a picture that can be read; give PNG, JPEG"):
        open_picture(data)


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = encoded(PICTURE, "PNG")
    for kind in (b"IHDR", b"IDAT", b"IEND"):
        changed, start = bytearray(data), data.index(kind) - 4
        changed[start + 8 + int.from_bytes(data[start : start + 4])] ^= 1
        with pytest.raises(ImageError, match=f"the picture is broken .checksum of its chunk b'{kind.decode()}'"):
            open_picture(bytes(changed))
    assert open_picture(data + b"what comes behind").size == (32, 24)


@pytest.mark.parametrize("size", [(2**31 - 1, 2), (2**31 - 1, 2**31 - 1), (0, 5)])
def test_impossible_headers_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError):
        open_picture(png_of_size(*size, zlib.compress(b"")))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html><body>not a picture</body></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"SIMPLE  =                    T" + b" " * 2850,
        b"8BPS\x00\x01" + bytes(40),
        encoded(PICTURE, "PDF"),
        b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(40),
        encoded(PICTURE, "PNG")[:-40],
        encoded(PICTURE, "JPEG")[:200],
        encoded(PICTURE, "PNG").replace(b"IDAT", b"IDAX"),
    ],
    ids=["empty", "html", "svg", "eps", "fits", "psd", "pdf", "heic", "cut-png", "cut-jpeg", "wrong-crc"],
)
def test_what_is_no_whole_picture_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(ImageError, match=r"; |give"):
            open_picture(source)


def entries_of_strips(order: str, word: str, count: int, first: int) -> list[bytes]:
    """The nine tags of a TIFF of `count` strips, whose places and lengths stand at `first`."""
    tags = [(256, 1, 1), (257, 1, 2), (258, 1, 8), (259, 1, 1), (262, 1, 1), (273, count, first)]
    tags += [(277, 1, 1), (278, 1, 1), (279, count, first)]
    width = struct.calcsize(f"{order}{word}")
    fields = [struct.pack(f"{order}{word if number > 1 else 'H'}", value) for _, number, value in tags]
    return [
        struct.pack(f"{order}HH{word}", tag, 3, number) + field.ljust(width, b"\0")
        for (tag, number, _), field in zip(tags, fields, strict=True)
    ]


@pytest.mark.parametrize("head", [b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+"])
def test_a_tiff_of_very_many_strips_is_refused_before_they_are_kept(head: bytes) -> None:
    order, is_big, count = "<" if head.startswith(b"II") else ">", head[2:3] == b"+", 1_000_000
    word, first = ("Q", 16) if is_big else ("I", 8)
    entries = entries_of_strips(order, word, count, first)
    place = (
        struct.pack(f"{order}HHQ", 8, 0, first + 2 * count) if is_big else struct.pack(f"{order}I", first + 2 * count)
    )
    directory = struct.pack(f"{order}{'Q' if is_big else 'H'}", len(entries)) + b"".join(entries) + bytes(8)
    start = time.perf_counter()
    with pytest.raises(ImageError, match="1,000,000 strips or tiles"):
        open_picture(head + place + bytes(2 * count) + directory)
    assert time.perf_counter() - start < 0.5


def test_a_tiff_whose_version_is_of_the_other_order_has_its_tags_where_pillow_looks() -> None:
    """Pillow takes its third byte for the version: this is no BigTIFF, whose tags would be nowhere."""
    count = 500_000
    at = 16 + 2 * count
    head = b"MM\0+" + struct.pack(">I", at) + b"\xff" * 8
    entries = entries_of_strips(">", "I", count, 16)
    directory = struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)
    start = time.perf_counter()
    with pytest.raises(ImageError, match="500,000 strips or tiles"):
        open_picture(head + bytes(2 * count) + directory)
    assert time.perf_counter() - start < 1


def test_a_tiff_whose_strips_stand_behind_very_many_tags_is_refused() -> None:
    count, head_bytes = 500_000, 16
    at = head_bytes + 2 * count
    entries = [struct.pack("<HHQQ", 0xFFFF, 0, 0, 0)] * 65_535 + entries_of_strips("<", "Q", count, head_bytes)
    directory = struct.pack("<Q", len(entries)) + b"".join(entries) + bytes(8)
    start = time.perf_counter()
    with pytest.raises(ImageError, match="has 65,544 tags; give at most 4,096"):
        open_picture(b"II+\0" + struct.pack("<HHQ", 8, 0, at) + bytes(2 * count) + directory)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "tail", [b"", b"\0", b"\xe0\0\x02", encoded(PICTURE, "JPEG")[2:]], ids=["end", "zero", "segment", "whole"]
)
def test_a_jpeg_that_begins_with_long_fill_is_refused_in_time(tail: bytes) -> None:
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"; |give"):
        open_picture(b"\xff\xd8" + b"\xff" * 100_000 + tail)
    assert time.perf_counter() - start < 0.5


def test_a_jpeg_of_very_many_segments_is_refused() -> None:
    data = encoded(PICTURE, "JPEG")
    start = time.perf_counter()
    with pytest.raises(ImageError, match="the picture is broken"):
        open_picture(data[:2] + b"\xff\xd0" * 100_000 + data[2:])
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize("before", [b"", b"\xff\xff", b"\xff\xd0", b"\xff\xf0\xff\xff", b"junk", b"\xff\x00"])
def test_a_jpeg_of_very_many_pieces_of_exif_is_refused_before_they_are_joined(before: bytes) -> None:
    buffer = io.BytesIO()
    PICTURE.save(buffer, "JPEG")
    data, piece = buffer.getvalue(), b"\xff\xe1" + struct.pack(">H", 2 + 6 + 100) + b"Exif\0\0" + bytes(100)
    assert open_picture(data[:2] + 3 * piece + data[2:]).size == PICTURE.size
    start = time.perf_counter()
    for many in (200_000 * piece, (1 << 20) * b"junk"):
        with pytest.raises(ImageError, match="EXIF in more than 64 segments, or junk"):
            open_picture(data[:2] + b"\xff\xfe\0\2" + before + many + data[2:])
    assert time.perf_counter() - start < 0.5


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing.png", ".", "pipe", "a" * 300, "with\0zero"):
        with pytest.raises(ImageError):
            open_picture(tmp_path / name)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "large.png").touch()
    os.truncate(tmp_path / "large.png", MAX_BYTES + 1)
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"large\.png has 268,435,457 bytes; give 1 to 268,435,456"):
        open_picture(tmp_path / "large.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_mutated_files_open_or_are_refused() -> None:
    dice = random.Random(7)
    originals = [encoded(PICTURE, kind) for kind in FORMATS]
    for number in range(600):
        data = bytearray(originals[number % len(originals)])
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            opened = open_picture(bytes(data))
        except ImageError:
            continue
        assert opened.mode == "RGB"


def test_a_pil_image_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    data = encoded(PICTURE, "PNG")
    closed = Image.open(io.BytesIO(data))
    closed.close()
    for picture in (Image.open(io.BytesIO(data[:-40])), closed):
        with pytest.raises(ImageError, match="the picture is broken"):
            open_picture(picture)


@pytest.mark.parametrize(
    "source",
    [np.zeros((9, 9, 3), np.uint8), 5, None, io.BytesIO(b"x"), bytearray(b"x")],
    ids=lambda source: type(source).__name__,
)
def test_what_is_no_source_is_told_in_one_line(source: Any) -> None:
    with pytest.raises(ImageError, match=r"\Agot a picture of the type \w+; give a path, the bytes of a file, .*\Z"):
        open_picture(source)


def test_a_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    PICTURE.save(tmp_path / "a.png")
    assert open_picture("~/a.png").size == (32, 24)


def turned(orientation: int, kind: str, **options: object) -> bytes:
    """A file of PICTURE as a camera that is held so stores it."""
    turns = Image.Transpose
    stored_as = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    stored = PICTURE.transpose(stored_as[orientation]) if orientation > 1 else PICTURE
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(stored, kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_turn_upright(orientation: int) -> None:
    opened = open_picture(turned(orientation, "PNG"))
    assert sha256_of_pixels(opened) == sha256_of_pixels(PICTURE)
    assert sha256_of_pixels(open_picture(opened)) == sha256_of_pixels(PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True})])
def test_exif_orientations_turn_other_formats_upright_once(
    kind: str, options: dict[str, object], orientation: int
) -> None:
    opened = open_picture(turned(orientation, kind, **options))
    assert opened.size == PICTURE.size
    assert np.abs(np.asarray(opened, np.int16) - np.asarray(PICTURE, np.int16)).mean() < 3


def test_every_mode_becomes_the_same_rgb() -> None:
    grey = PICTURE.convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    assert wide.mode == "I;16"
    modes = {
        "grey": encoded(grey, "PNG"),
        "16 bit": encoded(wide, "PNG"),
        "palette": encoded(grey.convert("P"), "PNG"),
        "alpha": encoded(PICTURE.convert("RGBA"), "PNG"),
        "grey alpha": encoded(grey.convert("LA"), "PNG"),
        "float": encoded(Image.fromarray(np.asarray(grey).astype(np.float32) / 255), "TIFF"),
        "cmyk": encoded(PICTURE.convert("CMYK"), "TIFF"),
    }
    for name, data in modes.items():
        difference = np.abs(np.asarray(open_picture(data), np.int16) - np.asarray(PICTURE, np.int16))
        assert difference.max() <= 2, name


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "CMYK", "1"])
def test_strips_leave_no_seam(mode: str) -> None:
    """A picture of several strips is what its rows, which are one strip each, are."""
    grey = tall_values()
    picture = Image.fromarray(grey).convert("LA" if mode == "PA" else mode).convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(grey[::-1].copy()))
    whole = np.asarray(open_picture(picture))
    for top in range(len(grey)):
        row = picture.crop((0, top, picture.width, top + 1))
        assert np.array_equal(whole[top : top + 1], np.asarray(open_picture(row)))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_strips_of_grey_have_one_scale(dtype: type[np.generic]) -> None:
    """Only the last strip says that the values have 16 bits."""
    grey = tall_values()
    grey[:8] //= 64
    wide = grey.astype(dtype) * dtype(257)
    wide[:8, 0] = 0
    assert np.array_equal(np.asarray(open_picture(Image.fromarray(wide)))[:, 1:, 0], grey[:, 1:])


def test_grey_of_16_bits_takes_a_strip_of_memory_at_a_time() -> None:
    picture = Image.fromarray(np.full((3000, 3000), 257 * 9, np.uint16))
    tracemalloc.start()
    opened = open_picture(picture)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened.getextrema() == ((9, 9),) * 3
    assert peak < 40 * 2**20  # the whole picture as f32 is 34 MiB, and several are needed


def tall_values() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Values [9, W] of a picture of three strips, the last of them one row."""
    return np.add.outer(np.arange(9) * 25, np.arange(STRIP_PIXELS // 4) % 25).astype(np.uint8)


def test_the_id_is_that_of_all_pixels() -> None:
    picture = Image.fromarray(np.arange(3 * 9, dtype=np.uint8).reshape(9, 1, 3).repeat(STRIP_PIXELS // 4, 1))
    whole = f"RGB {picture.width} 9\n".encode() + picture.tobytes()
    assert sha256_of_pixels(picture) == hashlib.sha256(whole).hexdigest()


def test_transparent_is_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert open_picture(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    assert open_picture(encoded(palette, "GIF", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_only_the_first_frame_is_read(kind: str) -> None:
    frames = [Image.new("L", (16, 16), shade % 256) for shade in range(300)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    start = time.perf_counter()
    assert open_picture(data).getpixel((0, 0)) == (0, 0, 0)
    assert time.perf_counter() - start < 0.5


def test_a_picture_in_memory_is_judged_too() -> None:
    with pytest.raises(ImageError, match="give at most 100"):
        open_picture(PICTURE, max_pixels=100)
    assert open_picture(PICTURE) is PICTURE


def test_the_id_depends_on_size_and_mode() -> None:
    pixels = bytes(range(24))
    ids = {
        sha256_of_pixels(Image.frombytes(mode, size, pixels))
        for mode, size in (("RGB", (2, 4)), ("RGB", (4, 2)), ("L", (6, 4)), ("L", (4, 6)), ("RGBA", (2, 3)))
    }
    assert len(ids) == 5


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    """Libjpeg decodes each over all of the picture: some kilobytes can take hours."""
    buffer = io.BytesIO()
    PICTURE.save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="has more than 500 scans"):
        open_picture(data[:last] + data[last:-2] * 600 + data[-2:])
    assert open_picture(data).size == PICTURE.size


def test_a_tag_of_very_many_numbers_is_refused() -> None:
    """Pillow makes an object of each before anything can be asked of the picture."""
    tags = [(256, 3, 1, 1), (257, 3, 1, 1), (282, 5, 1_000_000, 8)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = (
        b"II*\0" + struct.pack("<I", 8_000_008) + bytes(8_000_000) + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    start = time.perf_counter()
    with pytest.raises(ImageError, match="a tag of 1,000,000 numbers"):
        open_picture(data)
    assert time.perf_counter() - start < 0.5


def test_what_a_file_says_beside_its_pixels_goes_no_further(tmp_path: Path) -> None:
    """Pillow would write a profile or a comment again, or fail to."""
    said = PngImagePlugin.PngInfo()
    said.add_text("icc_profile", "none")
    said.add_text("comment", "x" * 70_000)
    PICTURE.convert("RGB").save(tmp_path / "a.png", pnginfo=said)
    picture = open_picture(tmp_path / "a.png")
    assert picture.info == {}
    for suffix in ("png", "jpg"):
        picture.save(tmp_path / f"again.{suffix}")


def test_long_exif_is_not_read() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.XPSubject] = bytes(2_000_000)
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG", exif=exif)
    assert open_picture(buffer.getvalue()).size == PICTURE.size
