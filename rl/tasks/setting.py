"""The world around the content: plain page, poster, paper, window, board, map, dashboard; blueprint only in test.

`draw_setting` paints the furniture and returns the free area in which a generator places its blocks, with the colour
that lies there.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.canvas import Canvas
from foveate.rl.tasks.palette import NAMED, Color, distance, hsv, ink_on, luminance, shade
from foveate.rl.tasks.scene import Box
from foveate.rl.tasks.words import CITIES, GOODS, PLACES, text_line

Setting = Literal["plain", "gradient", "texture", "poster", "paper", "window", "board", "map", "dashboard", "blueprint"]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The free area of a setting."""

    area: Box
    surface: Color
    """Typical colour of the area; anchors and text must stand out on it."""
    setting: Setting


def pick_setting(rng: random.Random, split: Split) -> Setting:
    """A setting; a quarter of the test pictures is a blueprint."""
    if split == "test" and rng.random() < 0.25:
        return "blueprint"
    return rng.choices(
        ("plain", "gradient", "texture", "poster", "paper", "window", "board", "map", "dashboard"),
        (10, 10, 10, 15, 12, 15, 10, 10, 8),
    )[0]


def draw_setting(canvas: Canvas, setting: Setting) -> Ground:
    """Paint a setting and return its free area."""
    painter = {
        "plain": _plain, "gradient": _gradient, "texture": _texture, "poster": _poster, "paper": _paper,
        "window": _window, "board": _board, "map": _map, "dashboard": _dashboard, "blueprint": _blueprint,
    }[setting]  # fmt: skip
    area, surface = painter(canvas)
    return Ground(area=area, surface=surface, setting=setting)


def draw_shelves(canvas: Canvas, ground: Ground, cells: Sequence[Box]) -> None:
    """A board under every row of blocks, as in a shop or a laboratory."""
    wood = shade(canvas.rng, canvas.rng.choice([name for name in ("brown", "gray", "white", "black")
                                               if distance(NAMED[name], ground.surface) > 60]))  # fmt: skip
    thick = canvas.big(canvas.rng.uniform(2, 4))
    for bottom in sorted({round(cell[3]) for cell in cells}):
        top = bottom - canvas.big(5)
        canvas.draw.rectangle((ground.area[0], top, ground.area[2], top + thick), fill=wood)


def _inner(canvas: Canvas) -> Box:
    m = canvas.margin
    return m, m, canvas.size[0] - m, canvas.size[1] - m


def _paste(canvas: Canvas, image: Image.Image) -> None:
    canvas.image.paste(image, (0, 0))


def _plain(canvas: Canvas) -> tuple[Box, Color]:
    return _inner(canvas), canvas.theme.page


def soft_noise(rng: random.Random, size: tuple[int, int], base: Color, strength: float, cells: int) -> Image.Image:
    """A cloudy field around a base colour."""
    field = np.random.default_rng(rng.getrandbits(32)).normal(0.0, strength, (cells, cells, 1))
    small = (np.array(base, dtype=np.float64) + field).clip(0, 255).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)


def _gradient(canvas: Canvas) -> tuple[Box, Color]:
    base, rng = canvas.theme.page, canvas.rng
    spread = rng.randint(8, 34)
    corners = [tuple(min(255, max(0, part + rng.randint(-spread, spread))) for part in base) for _ in range(4)]
    small = Image.fromarray(np.array(corners, dtype=np.uint8).reshape(2, 2, 3))
    _paste(canvas, small.resize(canvas.size, Image.Resampling.BILINEAR))
    return _inner(canvas), base


def _texture(canvas: Canvas) -> tuple[Box, Color]:
    base = canvas.theme.page
    _paste(
        canvas, soft_noise(canvas.rng, canvas.size, base, canvas.rng.uniform(4, 14), canvas.rng.choice((12, 40, 160)))
    )
    return _inner(canvas), base


def title_text(rng: random.Random) -> str:
    """A heading of two or three words."""
    first = rng.choice(("Spring", "City", "North", "Old", "Grand", "Daily", "Open", "Royal", "Green", "West", "New"))
    second = rng.choice((*PLACES, "Fair", "Plan", "Report", "Stock", "Survey", "Guide", "Notice", "Archive", "Record"))
    return f"{first} {second}" if rng.random() < 0.6 else f"{rng.choice(CITIES)} {second}"


def heading(canvas: Canvas, box: Box, fill: Color, ink: Color) -> None:
    """A title bar with large text."""
    if fill != canvas.theme.page:
        canvas.draw.rectangle(box, fill=fill)
    size = int((box[3] - box[1]) * canvas.rng.uniform(0.4, 0.6))
    middle = (box[1] + box[3]) / 2
    at, align = canvas.rng.choice((((box[0] + canvas.margin, middle), "lm"), (((box[0] + box[2]) / 2, middle), "mm")))
    text = title_text(canvas.rng)
    wide, _ = canvas.measure(text, size, bold=True, family=canvas.head_font)
    size = int(size * min(1.0, 0.85 * (box[2] - box[0]) / wide))
    canvas.text(at, text, size=size, bold=True, family=canvas.head_font, fill=ink, align=align)  # type: ignore[arg-type]


def _poster(canvas: Canvas) -> tuple[Box, Color]:
    _gradient(canvas) if canvas.rng.random() < 0.5 else None
    width, height = canvas.size
    x0, y0, x1, y1 = _inner(canvas)
    band = canvas.big(canvas.rng.uniform(34, 52))
    accent = canvas.theme.accent
    if canvas.rng.random() < 0.7:
        heading(canvas, (0, 0, width, band), accent, ink_on(accent))
        return (x0, band + canvas.big(4), x1, y1), canvas.theme.page
    heading(canvas, (0, height - band, width, height), accent, ink_on(accent))
    return (x0, y0, x1, height - band - canvas.big(4)), canvas.theme.page


def _paper(canvas: Canvas) -> tuple[Box, Color]:
    rng = canvas.rng
    base: Color = rng.choice(((250, 248, 242), (244, 238, 222), (255, 255, 255), (238, 236, 232)))
    if canvas.theme.dark:
        base = canvas.theme.page
    _paste(canvas, soft_noise(rng, canvas.size, base, rng.uniform(1, 5), rng.choice((30, 90))))
    x0, y0, x1, y1 = _inner(canvas)
    step = int(canvas.small_px * 1.5)
    top_lines, bottom_lines = rng.randint(1, 4), rng.randint(0, 3)
    for index in range(top_lines):
        canvas.filler((x0, y0 + index * step, x1, 0), text_line(rng, 30))
    for index in range(bottom_lines):
        canvas.filler((x0, y1 - (index + 1) * step, x1, 0), text_line(rng, 30))
    top, bottom = y0 + (top_lines + 0.5) * step, y1 - (bottom_lines + 0.5) * step
    if rng.random() < 0.6:
        canvas.draw.line((x0, top, x1, top), fill=canvas.theme.line, width=3)
    return (x0, top + step * 0.4, x1, bottom), base


def _window(canvas: Canvas) -> tuple[Box, Color]:
    rng, t = canvas.rng, canvas.theme
    width, height = canvas.size
    bar = canvas.big(rng.uniform(12, 18))
    canvas.draw.rectangle((0, 0, width, bar), fill=t.accent)
    for index, color in enumerate(((236, 94, 84), (244, 190, 60), (96, 200, 86))):
        x, r = bar * (0.6 + 0.7 * index), bar * 0.22
        canvas.draw.ellipse((x - r, bar / 2 - r, x + r, bar / 2 + r), fill=color)
    canvas.text((width / 2, bar / 2), title_text(rng), size=int(bar * 0.5), fill=ink_on(t.accent), align="mm")
    left, right = canvas.margin, width - canvas.margin
    if rng.random() < 0.6:
        side = canvas.big(rng.uniform(60, 90))
        on_left = rng.random() < 0.7
        x = 0 if on_left else width - side
        canvas.draw.rectangle((x, bar, x + side, height), fill=t.card)
        step = int(canvas.small_px * rng.uniform(2.0, 2.8))
        for y in range(bar + step, height - step, step):
            canvas.filler((x + side * 0.12, y, x + side * 0.88, 0), text_line(rng, rng.randint(1, 3)))
        left, right = (side + canvas.margin // 2, right) if on_left else (left, width - side - canvas.margin // 2)
    return (left, bar + canvas.margin // 2, right, height - canvas.margin), t.page


def _board(canvas: Canvas) -> tuple[Box, Color]:
    rng = canvas.rng
    base = rng.choice(
        (hsv(0.08, 0.45, 0.72), hsv(0.07, 0.6, 0.45), hsv(0.4, 0.6, 0.3), hsv(0.6, 0.65, 0.42), (232, 232, 228))
    )
    field = np.random.default_rng(rng.getrandbits(32)).normal(0.0, 7.0, (canvas.size[1] // 6, 6, 1))
    small = (np.array(base, dtype=np.float64) + field).clip(0, 255).astype(np.uint8)
    _paste(canvas, Image.fromarray(small).resize(canvas.size, Image.Resampling.BILINEAR))
    frame = canvas.margin * 0.5
    edge: Color = (max(0, base[0] - 50), max(0, base[1] - 50), max(0, base[2] - 50))
    canvas.draw.rectangle((0, 0, canvas.size[0], canvas.size[1]), outline=edge, width=int(frame))
    return _inner(canvas), base


def _map(canvas: Canvas) -> tuple[Box, Color]:
    rng, (width, height) = canvas.rng, canvas.size
    land = rng.choice(((238, 234, 222), (228, 236, 220), (244, 240, 232), (226, 230, 234)))
    canvas.draw.rectangle((0, 0, width, height), fill=land)
    for color in ((186, 212, 234), (206, 226, 192), (206, 226, 192)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        rx, ry = rng.uniform(0.08, 0.22) * width, rng.uniform(0.08, 0.22) * height
        canvas.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=color)
    road = rng.choice(((255, 255, 255), (214, 208, 196), (250, 224, 160)))
    for _ in range(rng.randint(5, 10)):
        a, b = rng.uniform(-0.2, 1.2), rng.uniform(-0.2, 1.2)
        ends = ((0, a * height, width, b * height), (a * width, 0, b * width, height))[rng.random() < 0.5]
        canvas.draw.line(ends, fill=road, width=canvas.big(rng.choice((2, 3, 5))))
    return _inner(canvas), land


def _dashboard(canvas: Canvas) -> tuple[Box, Color]:
    rng, t = canvas.rng, canvas.theme
    strip = canvas.big(rng.uniform(26, 40))
    x0, y0, x1, y1 = _inner(canvas)
    bars = rng.randint(12, 40)
    for index in range(bars):
        x = x0 + (x1 - x0) * index / bars
        canvas.draw.rectangle((x, y0 + strip * rng.random(), x + (x1 - x0) / bars * 0.6, y0 + strip), fill=t.accent)
    canvas.draw.line((x0, y0 + strip, x1, y0 + strip), fill=t.line, width=3)
    for index in range(4):
        canvas.filler((x0 + (x1 - x0) * index / 4, y0 + strip * 1.1, x1, 0), rng.choice(GOODS))
    return (x0, y0 + strip * 1.1 + canvas.small_px * 2, x1, y1), t.page


def _blueprint(canvas: Canvas) -> tuple[Box, Color]:
    rng, (width, height) = canvas.rng, canvas.size
    base = rng.choice(((32, 66, 120), (20, 84, 92), (236, 242, 248), (240, 240, 226)))
    step = canvas.big(rng.uniform(10, 20))
    grid: Color = tuple(min(255, part + 22) if luminance(base) < 128 else max(0, part - 22) for part in base)  # type: ignore[assignment]
    canvas.draw.rectangle((0, 0, width, height), fill=base)
    draw: ImageDraw.ImageDraw = canvas.draw
    for x in range(0, width, step):
        draw.line((x, 0, x, height), fill=grid, width=2)
    for y in range(0, height, step):
        draw.line((0, y, width, y), fill=grid, width=2)
    frame = canvas.margin * 0.4
    draw.rectangle((frame, frame, width - frame, height - frame), outline=ink_on(base), width=3)
    return _inner(canvas), base
