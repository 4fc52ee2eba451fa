"""The drawing surface: text with exact boxes, cards, shapes, icons and flags, at the scale of the first view.

Nano first sees a picture shrunk to 448 x 448 pixels of area. `Canvas.view_scale` is that shrink factor; `big` sizes
survive it (an anchor of 28 view pixels), `small_px` sizes do not (text of at most 8 view pixels), so every generator
can keep its promise: anchors are found at first view, evidence is not. Drawing is direct: no supersampling, shapes
come from cached masks, fonts from a cache.
"""

import random
from functools import cache
from math import cos, pi, sin
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from foveate.rl.tasks import assets
from foveate.rl.tasks.assets import FONTS, ICON_STYLES, Split
from foveate.rl.tasks.lettering import lettering
from foveate.rl.tasks.palette import Color, Theme, distance, ink_on, theme
from foveate.rl.tasks.scene import Box, Glyph, Mark

VIEW_AREA = 448 * 448
SMALLEST_SHARE = 0.85
"""Of the largest font size that still vanishes: the smallest that a picture uses."""
SMALL_VIEW_PX = 8.0
"""Largest font size, in pixels of the first view, at which text still vanishes."""
ASPECTS = ((4, 3), (4, 3), (3, 2), (16, 9), (16, 10), (1, 1), (3, 4), (210, 297))
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "hexagon", "ring", "arrow", "moon")
MASK_PX = 192
Align = Literal["la", "lt", "mt", "rt", "lm", "mm", "rm", "ls", "ms", "rs"]


def picture_size(rng: random.Random, least: float = 2.2e6) -> tuple[int, int]:
    """Width and height: a long side of 1,200 to 2,500 px, an area of `least` to 4.2 million px."""
    across, down = rng.choice(ASPECTS)
    area = rng.uniform(least**0.5, 2050.0) ** 2
    width = (area * across / down) ** 0.5
    longest = max(width, width * down / across)
    scale = min(2500.0, max(1210.0, longest)) / longest
    return int(width * scale), int(width * scale * down / across)


def _polygon(name: str) -> list[tuple[float, float]]:
    """Corners of a shape in the unit square."""
    if name == "star":
        turns = [(i * pi / 5 - pi / 2, 0.52 if i % 2 == 0 else 0.21) for i in range(10)]
        return [(0.5 + r * cos(a), 0.53 + r * sin(a)) for a, r in turns]
    if name == "hexagon":
        return [(0.5 + 0.5 * cos(i * pi / 3), 0.5 + 0.5 * sin(i * pi / 3)) for i in range(6)]
    return {
        "square": [(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)],
        "triangle": [(0.5, 0.04), (1.0, 0.94), (0.0, 0.94)],
        "diamond": [(0.5, 0.0), (0.9, 0.5), (0.5, 1.0), (0.1, 0.5)],
        "cross": [
            (0.34, 0.02), (0.66, 0.02), (0.66, 0.34), (0.98, 0.34), (0.98, 0.66), (0.66, 0.66),
            (0.66, 0.98), (0.34, 0.98), (0.34, 0.66), (0.02, 0.66), (0.02, 0.34), (0.34, 0.34),
        ],
        "arrow": [(0.0, 0.34), (0.52, 0.34), (0.52, 0.06), (1.0, 0.5), (0.52, 0.94), (0.52, 0.66), (0.0, 0.66)],
    }[name]  # fmt: skip


@cache
def shape_mask(name: str) -> Image.Image:
    """A shape as a smooth mask of 192 x 192 px."""
    side = MASK_PX * 3
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    if name in ("circle", "ring", "moon"):
        draw.ellipse((side * 0.02, side * 0.02, side * 0.98, side * 0.98), fill=255)
        hole = {"ring": (0.28, 0.28, 0.72, 0.72), "moon": (0.36, -0.04, 1.16, 0.76)}.get(name)
        if hole:
            draw.ellipse(tuple(side * part for part in hole), fill=0)
    elif name == "heart":
        draw.ellipse((0, side * 0.06, side * 0.53, side * 0.59), fill=255)
        draw.ellipse((side * 0.47, side * 0.06, side, side * 0.59), fill=255)
        draw.polygon([(side * 0.035, side * 0.43), (side * 0.965, side * 0.43), (side * 0.5, side * 0.98)], fill=255)
    else:
        draw.polygon([(x * side, y * side) for x, y in _polygon(name)], fill=255)
    return mask.resize((MASK_PX, MASK_PX), Image.Resampling.BOX)


class Canvas:
    """A picture in the making; every size and box in its own pixels."""

    def __init__(self, rng: random.Random, split: Split, size: tuple[int, int] | None = None) -> None:
        self.rng, self.split = rng, split
        self.size = size or picture_size(rng)
        self.theme: Theme = theme(rng, split)
        self.image = Image.new("RGB", self.size, self.theme.page)
        self.draw = ImageDraw.Draw(self.image)
        self.view_scale = max(1.0, (self.size[0] * self.size[1] / VIEW_AREA) ** 0.5)
        families = FONTS[split]
        self.head_font, self.text_font = rng.choice(families), rng.choice(families)
        largest_px = int(min(34, SMALL_VIEW_PX * self.view_scale))
        self.small_px = rng.randint(max(14, int(SMALLEST_SHARE * largest_px)), max(14, largest_px))
        """Font size of everything that must be read in a crop."""
        self.marks: list[Mark] = []
        """What can be named, in the order of drawing."""
        self.glyphs: list[Glyph] = []
        """Every character of every text, in the order of drawing."""
        self.style = rng.choice(ICON_STYLES[split])

    @property
    def margin(self) -> int:
        """Free border, wide enough for a rotation of two degrees."""
        return int(0.035 * max(self.size))

    def big(self, view_px: float) -> int:
        """Pixels that appear as `view_px` at first view."""
        return int(view_px * self.view_scale)

    def font(self, size: int, *, bold: bool = False, family: str | None = None) -> ImageFont.FreeTypeFont:
        """The text face of this picture at a size."""
        return assets.font(family or self.text_font, max(8, size), bold)

    def measure(self, text: str, size: int, *, bold: bool = False, family: str | None = None) -> tuple[int, int]:
        """Width and height that `text` will cover."""
        left, top, right, bottom = self.font(size, bold=bold, family=family).getbbox(text)
        return int(right - left), int(bottom - top)

    def text(
        self,
        xy: tuple[float, float],
        text: str,
        *,
        size: int | None = None,
        bold: bool = False,
        family: str | None = None,
        fill: Color | None = None,
        align: Align = "lt",
    ) -> Box:
        """Draw one line and return the exact box of its ink; `align` is Pillow's text anchor."""
        face = self.font(size or self.small_px, bold=bold, family=family)
        at = (round(xy[0]), round(xy[1]))
        self.draw.text(at, text, font=face, fill=fill or self.theme.ink, anchor=align)
        self.glyphs += lettering(text, at, face, align)
        left, top, right, bottom = face.getbbox(text, anchor=align)
        return at[0] + left, at[1] + top, at[0] + right, at[1] + bottom

    def card(
        self, box: Box, *, fill: Color | None = None, radius: int = 0, line: Color | None = None, width: int = 2
    ) -> None:
        """A filled rectangle, rounded when `radius` is positive."""
        self.draw.rounded_rectangle(box, radius=radius, fill=fill or self.theme.card, outline=line, width=width)

    def shape(self, name: str, box: Box, color: Color, *, outline: Color | None = None, angle: float = 0.0) -> None:
        """A shape that fills `box`, with a thin outline or turned by a few degrees where asked."""
        x0, y0, x1, y1 = (round(value) for value in box)
        mask = shape_mask(name)
        if angle:
            mask = mask.rotate(angle, Image.Resampling.BILINEAR)
        mask = mask.resize((max(1, x1 - x0), max(1, y1 - y0)), Image.Resampling.BILINEAR)
        if outline is not None:
            edge = max(2, (x1 - x0) // 24)
            wide = mask.resize((mask.width + 2 * edge, mask.height + 2 * edge), Image.Resampling.BILINEAR)
            self.image.paste(outline, (x0 - edge, y0 - edge), wide)
        self.image.paste(color, (x0, y0), mask)

    def picture(self, drawing: Image.Image, box: Box) -> None:
        """Paste an RGBA drawing so that it fills `box`."""
        x0, y0, x1, y1 = (round(value) for value in box)
        small = drawing.resize((max(1, x1 - x0), max(1, y1 - y0)), Image.Resampling.BILINEAR, reducing_gap=2.0)
        self.image.paste(small, (x0, y0), small)

    def ink(self, surface: Color) -> Color:
        """A text colour for a surface: the theme's where it reads well, else black or white."""
        return self.theme.ink if distance(self.theme.ink, surface) > 230 else ink_on(surface)

    def filler(self, box: Box, text: str, *, size: int | None = None, fill: Color | None = None) -> None:
        """One line of unimportant text, cut where it would leave the box."""
        face = self.font(size or self.small_px)
        room = int((box[2] - box[0]) / max(1.0, face.getlength("n")))
        at, part = (round(box[0]), round(box[1])), text[:room]
        self.draw.text(at, part, font=face, fill=fill or self.theme.muted, anchor="la")
        self.glyphs += lettering(part, at, face)
