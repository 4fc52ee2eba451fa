"""The images of a run: one content-addressed store, and where each image's pixels come from.

The graph's state names images by the sha256 of their mode, size and pixels; an `ImageStore` holds the pixels. Without a
folder they live in memory. With a folder every image is also a file (the user's own when it is PNG or JPEG, else a
PNG; what is read back is held against its name), so that a resumed run finds it, and memory holds only the images used
last.

Boxes are x0, y0, x1, y1. `box_to_pixels` leads from what a model writes to pixels of the image it names;
`crop_record` leads from there to pixels of the user's picture, also for a crop of a crop.
"""

import contextlib
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from PIL import Image

from foveate.agent.records import ImageRecord
from foveate.agent.replacing import replaced
from foveate.errors import ImageError, InputError, ToolArgumentError
from foveate.models.reasoner import BoxSpace
from foveate.models.recent import Recent
from foveate.paths import expanded, is_file
from foveate.pictures import JPEG_SIGNATURE, PNG_SIGNATURE, open_picture, sha256_of_pixels
from foveate.tools.tool import Box
from foveate.tools.zoom import check_box

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_SIGNATURES = {PNG_SIGNATURE: ".png", JPEG_SIGNATURE: ".jpg"}
_UNIT_TOLERANCE = 0.001
_PIXEL_BYTES = 4
"""Of an RGB image in Pillow's memory."""


class ImageStore:
    """RGB images by sha256. Safe to use from many threads."""

    def __init__(self, folder: str | Path | None = None, *, memory_bytes: int = 2**29) -> None:
        """`folder`: where the images are files too, made when missing; then only so much stays in memory."""
        self._folder = None if folder is None else expanded(folder)
        self._images: Recent[str, Image.Image] = Recent(math.inf if folder is None else memory_bytes, _bytes_of)

    @property
    def lasts(self) -> bool:
        """Whether what it holds outlives the process."""
        return self._folder is not None

    def put(self, image: Image.Image, *, encoded: bytes | None = None) -> str:
        """Store a copy and return its sha256. `encoded`: the file that holds it, kept as it is when PNG or JPEG."""
        rgb = image.copy() if image.mode == "RGB" else image.convert("RGB")
        sha256 = sha256_of_pixels(rgb)
        if self._folder is not None and self._file(sha256) is None:
            self._write(sha256, *_file_of(rgb, encoded))
        self._images.put(sha256, rgb)
        return sha256

    def get(self, sha256: str) -> Image.Image:
        """The image; ImageError when it is not here or its file does not hold the pixels it is named after."""
        held = self._images.get(sha256)
        if held is not None:
            return held
        path = self._file(sha256)
        if path is None:
            raise ImageError(
                f"image {sha256[:12]} is not in the store; give the folder that the run stored its images in"
            )
        image = self._read(path, sha256)
        self._images.put(sha256, image)
        return image

    def _read(self, path: Path, sha256: str) -> Image.Image:
        """The picture of a file of ours; one that is damaged is put aside, so that it can be stored again."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path} cannot be read ({error.strerror}); give it back as it was") from error
        try:
            image = open_picture(data)
            if sha256_of_pixels(image) == sha256:
                return image
            reason = "it holds other pixels than its name says"
        except ImageError as error:
            if isinstance(error.__cause__, MemoryError):
                raise
            reason = str(error)
        with contextlib.suppress(OSError):
            path.replace(path.with_name(f"{path.name}.damaged"))
        raise ImageError(
            f"{path} is damaged ({reason}) and was put aside; add the picture again, or start a new conversation"
        )

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._images or self._file(sha256) is not None

    def _file(self, sha256: str) -> Path | None:
        if self._folder is None or _SHA256.match(sha256) is None:
            return None
        paths = (self._folder / f"{sha256}{suffix}" for suffix in _SIGNATURES.values())
        return next((path for path in paths if is_file(path)), None)

    def _write(self, sha256: str, data: bytes, suffix: str) -> None:
        assert self._folder is not None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replaced(self._folder / f"{sha256}{suffix}") as part:
                part.write_bytes(data)
        except OSError as error:
            raise InputError(
                f"cannot write images to {self._folder} ({error.strerror}); give a folder with free space"
            ) from error


class StoredImages(Sequence[Image.Image]):
    """The images of a run in order, each a copy made when it is asked for: a tool may draw on it."""

    def __init__(self, store: ImageStore, sha256s: Sequence[str]) -> None:
        self._store = store
        self.sha256s = tuple(sha256s)

    def __len__(self) -> int:
        return len(self.sha256s)

    @overload
    def __getitem__(self, key: int) -> Image.Image: ...

    @overload
    def __getitem__(self, key: slice) -> "StoredImages": ...

    def __getitem__(self, key: int | slice) -> "Image.Image | StoredImages":
        if isinstance(key, slice):
            return StoredImages(self._store, self.sha256s[key])
        return self._store.get(self.sha256s[key]).copy()


def picture_record(sha256: str, size_px: tuple[int, int], *, drawn: bool = False) -> ImageRecord:
    """Record of an image that is a part of no other: a user's picture, or what a tool has drawn."""
    width, height = size_px
    box = (0.0, 0.0, float(width), float(height))
    return ImageRecord(sha256=sha256, width_px=width, height_px=height, original=sha256, box_px=box, drawn=drawn)


def crop_record(source: ImageRecord, box_px: Box, sha256: str, size_px: tuple[int, int]) -> ImageRecord:
    """Record of what `box_px` (in the source image's own pixels) shows, with its box in the original's pixels."""
    left, top, right, bottom = source.box_px
    x_scale, y_scale = (right - left) / source.width_px, (bottom - top) / source.height_px
    x0, y0, x1, y1 = box_px
    box = (left + x0 * x_scale, top + y0 * y_scale, left + x1 * x_scale, top + y1 * y_scale)
    width, height = size_px
    return ImageRecord(sha256=sha256, width_px=width, height_px=height, original=source.original, box_px=box)


def box_to_pixels(
    box: object, size_px: tuple[int, int], space: BoxSpace, seen_px: tuple[int, int] | None = None
) -> Box:
    """A model's box as pixels of the image it names; ToolArgumentError tells the valid range in the model's space.

    `seen_px` is the size at which the model sees the image, where it differs.
    """
    width, height = size_px
    x_span, y_span = _spans(seen_px or size_px, space)
    x0, y0, x1, y1 = check_box(box, x_span, y_span)
    assert isinstance(box, list | tuple)
    if space == "unit" and not all(-_UNIT_TOLERANCE <= value <= 1 + _UNIT_TOLERANCE for value in box):
        raise ToolArgumentError(
            f"box {box} leaves the image; give x0, y0, x1, y1 with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1"
        )
    x_scale, y_scale = width / x_span, height / y_span
    return (x0 * x_scale, y0 * y_scale, x1 * x_scale, y1 * y_scale)


def _spans(size_px: tuple[int, int], space: BoxSpace) -> tuple[float, float]:
    if space == "relative_1000":
        return 1000.0, 1000.0
    return (1.0, 1.0) if space == "unit" else (float(size_px[0]), float(size_px[1]))


def _bytes_of(image: Image.Image) -> int:
    return _PIXEL_BYTES * image.width * image.height


def _file_of(image: Image.Image, encoded: bytes | None) -> tuple[bytes, str]:
    """The bytes and suffix to store: the given file when it is PNG or JPEG, else a PNG."""
    suffix = next((suffix for start, suffix in _SIGNATURES.items() if encoded and encoded.startswith(start)), None)
    if encoded is not None and suffix is not None:
        return encoded, suffix
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue(), ".png"
