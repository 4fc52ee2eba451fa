"""Colours: named ones for shapes that questions speak of, and themes for everything else in a picture.

A named colour is drawn with a little variation around its centre, so that "red" is a region and not one value. Themes
are drawn from hue bands; two bands belong to test alone.
"""

import colorsys
import random
from dataclasses import dataclass

from foveate.rl.tasks.assets import Split

Color = tuple[int, int, int]

NAMED: dict[str, Color] = {
    "red": (214, 40, 40), "blue": (36, 84, 208), "green": (34, 150, 62), "yellow": (246, 206, 26),
    "orange": (245, 130, 24), "purple": (128, 50, 160), "pink": (246, 120, 176), "brown": (124, 76, 42),
    "black": (24, 24, 26), "white": (250, 250, 248), "gray": (134, 138, 142),
}  # fmt: skip
TRAIN_HUES = ((0.0, 0.16), (0.24, 0.46), (0.55, 0.68), (0.76, 1.0))
TEST_HUES = ((0.16, 0.24), (0.46, 0.55), (0.68, 0.76))


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a picture's furniture."""

    page: Color
    card: Color
    ink: Color
    muted: Color
    line: Color
    accent: Color
    dark: bool


def luminance(color: Color) -> float:
    """Perceived brightness, 0 to 255."""
    return 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]


def distance(a: Color, b: Color) -> float:
    """How far apart two colours are: 0 to about 441."""
    return float(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5)


def hsv(hue: float, saturation: float, value: float) -> Color:
    """A colour from hue, saturation and value, each 0 to 1."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def shade(rng: random.Random, name: str, spread: int = 12) -> Color:
    """A drawing colour for a colour name, varied a little."""
    red, green, blue = (min(255, max(0, value + rng.randint(-spread, spread))) for value in NAMED[name])
    return red, green, blue


def visible_names(surface: Color) -> list[str]:
    """Colour names that stand out on a surface."""
    return [name for name, color in NAMED.items() if distance(color, surface) > 125]


def ink_on(surface: Color) -> Color:
    """Black or white, whichever reads better on a surface."""
    return (22, 22, 26) if luminance(surface) > 135 else (245, 245, 245)


def theme(rng: random.Random, split: Split) -> Theme:
    """A theme: mostly light; test draws half of its hues from bands that training never uses."""
    bands = TEST_HUES if split == "test" and rng.random() < 0.5 else TRAIN_HUES
    low, high = rng.choice(bands)
    hue = rng.uniform(low, high)
    accent = hsv(rng.uniform(low, high), rng.uniform(0.45, 0.85), rng.uniform(0.4, 0.75))
    if rng.random() < 0.15:
        page, card = hsv(hue, rng.uniform(0.15, 0.5), rng.uniform(0.1, 0.2)), hsv(hue, 0.25, rng.uniform(0.22, 0.3))
        ink, muted, line = (238, 238, 240), (178, 180, 186), (96, 98, 106)
        return Theme(page=page, card=card, ink=ink, muted=muted, line=line, accent=accent, dark=True)
    page = hsv(hue, rng.choice((0.0, 0.03, 0.08, 0.16)), rng.uniform(0.88, 1.0))
    card = rng.choice(((255, 255, 255), hsv(hue, 0.04, 0.98), hsv(hue, 0.1, 0.97), (250, 246, 236)))
    ink = rng.choice(((18, 18, 20), (40, 40, 48), (30, 36, 60), (60, 40, 30)))
    return Theme(page=page, card=card, ink=ink, muted=(106, 108, 114), line=(186, 188, 192), accent=accent, dark=False)
