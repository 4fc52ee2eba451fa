"""Opening a user's picture: whatever the file is, an upright RGB image or an ImageError.

A picture is untrusted input. Only six formats are tried (Pillow knows 43), the number of pixels is checked in the
header before anything is decoded (Pillow merely warns up to 179 million), only the first frame of an animation is
read, and every way in which a decoder can fail becomes an ImageError with the fix. Transparent parts turn white.
"""

import hashlib
import io
import os
import stat
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from foveate.errors import ImageError
from foveate.tools.schema import shown

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 100_000_000
MAX_BYTES = 256 * 2**20


def open_picture(source: str | Path | bytes | Image.Image, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright RGB image from a path, the bytes of a file, or a PIL image; ImageError for anything else."""
    if isinstance(source, Image.Image):
        check_size(source.size, max_pixels, "the picture")
        return upright_rgb(source)
    name = "the picture" if isinstance(source, bytes) else str(source)
    if isinstance(source, bytes) and not source:
        raise ImageError(f"{name} is empty; give a {' '.join(FORMATS)} file")
    with io.BytesIO(source) if isinstance(source, bytes) else regular_file(Path(source)) as data:
        return decoded(data, name, max_pixels)


def regular_file(path: Path) -> io.BufferedReader:
    """The opened file; ImageError when it is missing, empty, too large, or no file at all (a pipe would block)."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ImageError(f"{path} is not a file; give the path of a picture")
        if not 0 < about.st_size <= MAX_BYTES:
            raise ImageError(f"{path} has {about.st_size:,} bytes; give 1 to {MAX_BYTES:,}")
        return path.open("rb")
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise ImageError(f"{shown(str(path))} cannot be opened ({reason}); check the path") from error


def decoded(data: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """The picture in a stream; the header is judged before the pixels are decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_size is stricter
            opened = Image.open(data, formats=FORMATS)
        with opened:
            check_size(opened.size, max_pixels, name)
            opened.load()
            return upright_rgb(opened)
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
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        image = ImageOps.exif_transpose(image) if turned else image
    except Exception:  # broken EXIF in a sound picture: it is shown as it is stored  # noqa: BLE001, S110
        pass
    if image.mode == "RGB" and "transparency" not in image.info:
        return image if type(image) is Image.Image else image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def eight_bits(values: npt.NDArray[np.generic], mode: str) -> npt.NDArray[np.uint8]:
    """Grey values [H, W] of 16 or 32 bits or floats as bytes.

    The mode "I;16" has a fixed range. "I" and "F" have none: above 255 they are taken for 16 bits, floats up to 1 for
    shares of white.
    """
    finite = np.nan_to_num(values.astype(np.float32), posinf=65535.0, neginf=0.0)
    top = float(finite.max())
    wide = mode.startswith("I;16") or top > 255.0
    scale = 1.0 / 257.0 if wide else 255.0 if mode == "F" and top <= 1.0 else 1.0
    grey: npt.NDArray[np.uint8] = np.clip(np.rint(finite * scale), 0, 255).astype(np.uint8)
    return grey


def sha256_of_pixels(image: Image.Image) -> str:
    """Content address of an image: its mode, size and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
