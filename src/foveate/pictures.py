"""Opening a user's picture: whatever the file is, an upright RGB image or an ImageError.

A picture is untrusted input. Only six formats are tried (Pillow knows 43), the number of pixels is checked in the
header before anything is decoded (Pillow merely warns up to 179 million), so are the checksums of a PNG (Pillow skips
those of its pixels), only the first frame of an animation is read, and every way in which a decoder can fail becomes an
ImageError with the fix. Transparent parts turn white. What is not RGB is converted in strips, so that no more than the
picture itself and the result are in memory.
"""

import hashlib
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from foveate.errors import ImageError, shown
from foveate.paths import expanded

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
START_OF_SCAN = b"\xda"
JPEG_SCAN = b"\xff" + START_OF_SCAN
MARKER = re.compile(rb"\xff([^\xff\x00])", re.DOTALL)
"""Of a segment of a JPEG. A pattern that took in what fills up before it would be tried at each byte of that."""
ALONE = [bytes([code]) for code in (0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE))]
"""Markers after which Pillow looks for no length."""
MOST_SEGMENTS, MOST_EXIF, MOST_JUNK, MOST_SCANS = 1 << 16, 64, 1 << 16, 500
"""Of a JPEG: segments, those with EXIF, bytes between segments, and scans, each decoded over all of the picture."""
MOST_EXIF_BYTES = 1 << 20
TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II\x00*", b"MM*\x00", b"II+\x00", b"MM\x00+")
STRIPS_AND_TILES = (273, 279, 324, 325)
"""Their offsets and lengths, by tag."""
TIFF_BYTES = (1, 2, 7)
"""Kinds of tags that Pillow takes as they are: bytes, text, undefined. Of all others it makes a number each."""
MOST_STRIPS, MOST_ENTRIES = 400_000, 4096
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its orientation in EXIF."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 2**20
STRIP_PIXELS = 2**20
"""What is converted or hashed at once."""
PictureSource = str | os.PathLike[str] | bytes | Image.Image
"""A path, the bytes of a file, or a PIL image."""


def open_picture(source: PictureSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright RGB image; ImageError for anything that is none."""
    return picture_and_bytes(source, max_pixels=max_pixels)[0]


def picture_and_bytes(source: PictureSource, *, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, bytes | None]:
    """An upright RGB image and the file that it was in, None for a PIL image; ImageError for anything that is none."""
    if isinstance(source, Image.Image):
        with legible("the picture", max_pixels):
            return judged(source, "the picture", max_pixels), None
    if not isinstance(source, bytes | str | os.PathLike):
        raise ImageError(
            f"got a picture of the type {type(source).__name__}; give a path, the bytes of a file, or a PIL image"
        )
    name = "the picture" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else file_bytes(expanded(Path(source)))
    if not data:
        raise ImageError(f"{name} is empty; give a {' '.join(FORMATS)} file")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} has {len(data):,} bytes; give 1 to {MAX_BYTES:,}")
    return decoded(data, name, max_pixels), data


def file_bytes(path: Path) -> bytes:
    """What a file holds; ImageError when it is missing, empty, too large, or no file at all (a pipe would block)."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ImageError(f"{path} is not a file; give the path of a picture")
        if not 0 < about.st_size <= MAX_BYTES:
            raise ImageError(f"{path} has {about.st_size:,} bytes; give 1 to {MAX_BYTES:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise ImageError(f"{str(path)[:200]!r} cannot be opened ({reason}); check the path") from error


def decoded(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """The picture in a file's bytes; the header is judged before the pixels are decoded."""
    if data.startswith(PNG_SIGNATURE):
        check_png(data, name)
    if data.startswith(JPEG_SIGNATURE):
        check_jpeg(data, name)
    if data.startswith(TIFF_SIGNATURES):
        check_tiff(data, name)
    with legible(name, max_pixels):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_size is stricter
            opened = Image.open(io.BytesIO(data), formats=FORMATS)
        with opened:
            return judged(opened, name, max_pixels)


def check_png(data: bytes, name: str) -> None:
    """ImageError where a chunk of a PNG is not what its checksum says; a PNG that is cut off is left to the decoder."""
    view, start = memoryview(data), len(PNG_SIGNATURE)
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 8 + length
        if end + 4 > len(data):
            return
        if zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ImageError(f"{name} is broken (checksum of its chunk {shown(kind)}); export it again")
        if kind == b"IEND":  # what comes behind is not read
            return
        start = end + 4


def check_jpeg(data: bytes, name: str) -> None:
    """ImageError for a JPEG whose EXIF lies in very many segments: with each, Pillow copies those before it.

    And for one of long junk between its segments, which Pillow reads byte for byte, or of very many scans.
    """
    if data.count(JPEG_SCAN) > MOST_SCANS:
        raise ImageError(f"{name} has more than {MOST_SCANS} scans; export it again")
    broken = ImageError(f"{name} is broken (EXIF in more than {MOST_EXIF} segments, or junk); export it again")
    start, exif, segments = 2, 0, 0
    while (marker := MARKER.search(data, start)) and marker[1] != START_OF_SCAN:
        segments += 1
        exif += data[marker.end() + 2 : marker.end() + 8] == b"Exif\x00\x00"
        if segments > MOST_SEGMENTS or exif > MOST_EXIF or marker.start() - start > MOST_JUNK:
            raise broken
        length = 0 if marker[1] in ALONE else int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        start = marker.end() + length
    if marker is None and len(data) - start > MOST_JUNK:
        raise broken


def check_tiff(data: bytes, name: str) -> None:
    """ImageError for a TIFF with very many tags or numbers: Pillow keeps a hundred bytes of each before it looks."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    is_big = data[2:3] == b"+"  # of BigTIFF numbers are of 64 bits; Pillow knows it by this byte, in either order
    word, entry_bytes, head_bytes = (8, 20, 8) if is_big else (4, 12, 2)
    start = int.from_bytes(data[8:16] if is_big else data[4:8], order)
    entries = int.from_bytes(data[start : start + head_bytes], order)
    if entries > MOST_ENTRIES:
        raise ImageError(f"{name} has {entries:,} tags; give at most {MOST_ENTRIES:,}: export it again")
    for number in range(entries):
        entry = start + head_bytes + number * entry_bytes
        tag, kind = (int.from_bytes(data[at : at + 2], order) for at in (entry, entry + 2))
        count = int.from_bytes(data[entry + 4 : entry + 4 + word], order)
        if tag in STRIPS_AND_TILES and count > MOST_STRIPS:
            raise ImageError(f"{name} has {count:,} strips or tiles; give at most {MOST_STRIPS:,}: export it again")
        if count > MOST_STRIPS and kind not in TIFF_BYTES:
            raise ImageError(f"{name} has a tag of {count:,} numbers; give at most {MOST_STRIPS:,}: export it again")


def judged(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """The picture upright, as RGB, if its size is right."""
    check_size(image.size, max_pixels, name)
    image.load()
    return upright_rgb(image)


@contextmanager
def legible(name: str, max_pixels: int) -> Iterator[None]:
    """Around what reads a picture: whatever a decoder raises becomes an ImageError that says what to do."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large ({error}); give at most {max_pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a picture that can be read; give {', '.join(FORMATS)}") from error
    except Exception as error:  # a decoder fed with broken bytes raises whatever it likes
        raise ImageError(f"{name} is broken ({shown(str(error))}); export it again") from error


def check_size(size: tuple[int, int], max_pixels: int, name: str) -> None:
    """ImageError unless the picture has between 1 and `max_pixels` pixels."""
    width, height = size
    if width < 1 or height < 1 or width * height > max_pixels:
        pixels = f"{width} x {height} = {width * height:,} pixels"
        raise ImageError(f"{name} has {pixels}; give at most {max_pixels:,}: scale it down first")


def upright_rgb(image: Image.Image) -> Image.Image:
    """The same picture turned upright by its EXIF orientation, as 8-bit RGB over white."""
    turn = TURNS.get(orientation_of(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode == "RGB" and "transparency" not in image.info:
        if type(image) is Image.Image and not image.info:
            return image
        plain = image.copy()
        plain.info = {}  # comments and profiles of strangers, which Pillow would write again, or fail to
        return plain
    grey = image.mode.startswith("I") or image.mode == "F"
    scale = grey_scale(image) if grey else 1.0
    rgb = Image.new("RGB", image.size)
    for top, strip in strips(image):
        rgb.paste(eight_bits(strip, scale) if grey else over_white(strip), (0, top))
    return rgb


def orientation_of(image: Image.Image) -> int:
    """What its EXIF says of how the camera was held; 1, upright, where that says nothing, is broken or very long."""
    if any(len(image.info.get(key) or "") > MOST_EXIF_BYTES for key in ("exif", "Raw profile type exif")):
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # in a sound picture, which is shown as it is stored  # noqa: BLE001
        return 1


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The picture from top to bottom: the first row of each strip, and the strip."""
    height = max(1, STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def over_white(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, its transparent parts white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def grey_scale(image: Image.Image) -> float:
    """What turns grey values of 16 or 32 bits or floats into bytes.

    The mode "I;16" has a fixed range. "I" and "F" have none: above 255 they are taken for 16 bits, floats up to 1 for
    shares of white.
    """
    if image.mode.startswith("I;16"):
        return 1.0 / 257.0
    top = max(float(finite_values(strip).max()) for _, strip in strips(image))
    return 1.0 / 257.0 if top > 255.0 else 255.0 if image.mode == "F" and top <= 1.0 else 1.0


def eight_bits(image: Image.Image, scale: float) -> Image.Image:
    """Grey values, scaled, as a picture of bytes."""
    return Image.fromarray(np.clip(np.rint(finite_values(image) * scale), 0, 255).astype(np.uint8))


def finite_values(image: Image.Image) -> npt.NDArray[np.float32]:
    """Grey values [H, W]; what is no number is black."""
    return np.nan_to_num(np.asarray(image).astype(np.float32), posinf=65535.0, neginf=0.0)


def sha256_of_pixels(image: Image.Image) -> str:
    """Content address of an image: its mode, size and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height}\n".encode())
    for _, strip in strips(image):
        digest.update(strip.tobytes())
    return digest.hexdigest()
