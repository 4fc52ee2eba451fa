"""zoom: cut a part out of an image of the run.

Pure cropping: no resizing, no padding. Pillow's own crop fills with black outside the picture, so a box is checked
first and the error names the valid range. A box that leaves the picture by at most one pixel is a rounding and is
clamped. The result has at least MIN_SIDE_PX on each side.
"""

import math
from collections.abc import Sequence

from PIL import Image

from foveate.errors import ToolArgumentError, shown
from foveate.tools.schema import is_number
from foveate.tools.tool import Box, Tool, ToolResult

MIN_SIDE_PX = 4
TOLERANCE = 1.0
"""How far a coordinate may leave the space of the box before it is an error and no rounding."""
ROUNDING = 1e-6
"""A box that was converted from another space does not take one more pixel because of float noise."""


def check_box(box: object, width: float, height: float) -> Box:
    """The box clamped to 0..width and 0..height, or ToolArgumentError that tells the valid range.

    Works in any space of boxes: pass the image's size for pixels, 1000 and 1000 for the relative space.
    """
    span = f"x0, y0, x1, y1 with 0 <= x0 < x1 <= {width:g} and 0 <= y0 < y1 <= {height:g}"
    if not isinstance(box, list | tuple) or len(box) != 4:
        raise ToolArgumentError(f"box is {shown(box)}; give the four numbers {span}")
    for value in box:
        if not is_number(value):
            raise ToolArgumentError(f"box holds {shown(value)}; give finite numbers {span}")
    x0, y0, x1, y1 = (float(value) for value in box)
    outside = min(x0, y0) < -TOLERANCE or x1 > width + TOLERANCE or y1 > height + TOLERANCE
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if outside or x0 >= x1 or y0 >= y1:
        what = "leaves the image" if outside else "is empty or reversed"
        raise ToolArgumentError(f"box {shown(list(box))} {what}; give {span}")
    return x0, y0, x1, y1


def covered_pixels(size: tuple[int, int], box: object) -> tuple[int, int, int, int]:
    """The whole pixels of an image of `size` (width, height) that a box in pixels touches."""
    x0, y0, x1, y1 = check_box(box, *size)
    left, top = math.floor(x0 + ROUNDING), math.floor(y0 + ROUNDING)
    right, bottom = math.ceil(x1 - ROUNDING), math.ceil(y1 - ROUNDING)
    if right - left < MIN_SIDE_PX or bottom - top < MIN_SIDE_PX:
        covers = f"{right - left} x {bottom - top} pixels"
        raise ToolArgumentError(f"the box covers {covers}; give one of at least {MIN_SIDE_PX} x {MIN_SIDE_PX} pixels")
    return left, top, right, bottom


def zoom(image: Image.Image, box: object) -> Image.Image:
    """The part of an upright image inside `box`, which is in the image's pixels; ToolArgumentError for a bad box."""
    return image.crop(covered_pixels(image.size, box))


def zoom_image(images: Sequence[Image.Image], image: int, box: Box) -> ToolResult:
    """Look closer at a part of an image of this conversation. The crop becomes a new image.

    Args:
        images: The images of this conversation.
        image: Number of the image, counted from 0 in order of appearance; crops count too.
        box: The part to look at: x0, y0, x1, y1.
    """
    if not 0 <= image < len(images):
        raise ToolArgumentError(f"image is {image}; give a number from 0 to {len(images) - 1}")
    source = images[image]  # a copy each time that it is asked for
    covered = covered_pixels(source.size, box)
    return ToolResult(text=f"image {len(images)}", image=source.crop(covered), source_idx=image, box_px=covered)


def zoom_tool() -> Tool:
    """The zoom as a tool named "zoom"."""
    return Tool(zoom_image, name="zoom", wants_images=True)
