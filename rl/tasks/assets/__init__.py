"""Fonts, icons and flags that the generators draw with, and which split may use which.

The split is by asset, not by seed alone: a font that validation or test uses is never drawn in training. Icons exist in
four styles, one of them in test pictures only, and so do a few icon names, as things among which the named one must be
found. Everything was packed by `foveate.rl.tasks.pack_assets`; licences are in LICENSES.md beside this file.
"""

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageFont

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ASSETS = Path(__file__).parent
ICON_PX = 128
FLAG_SIZE = (120, 90)
SHEET_COLUMNS = 10

FONTS: dict[Split, tuple[str, ...]] = {
    "train": (
        "anton", "arimo", "barlow", "bitter", "courier-prime", "dm-sans", "exo-2", "fira-code", "hind", "ibm-plex-mono",
        "ibm-plex-sans", "inconsolata", "inter", "jetbrains-mono", "josefin-sans", "lato", "lora", "manrope",
        "merriweather", "mulish", "noto-sans", "noto-serif", "nunito", "open-sans", "playfair-display", "pt-sans",
        "pt-serif", "quicksand", "raleway", "roboto", "roboto-slab", "rubik", "slabo-27px", "source-sans-3",
        "special-elite", "work-sans",
    ),
    "validation": ("karla", "crimson-text", "cousine"),
    "test": (
        "tinos", "cabin", "titillium-web", "space-mono", "zilla-slab", "libre-baskerville", "archivo", "overpass",
        "oswald",
    ),
}  # fmt: skip
"""Font families by the split that draws with them: sans, serif, slab, mono and condensed faces in each large one."""

ICONS: dict[str, str] = {
    "airplane": "airplane", "anchor": "anchor", "apple": "red-apple", "axe": "axe", "ball": "soccer-ball",
    "balloon": "balloon", "banana": "banana", "bell": "bell", "bicycle": "bicycle", "bird": "bird",
    "boat": "sailboat", "book": "blue-book", "bread": "bread", "bus": "bus", "butterfly": "butterfly",
    "cactus": "cactus", "camera": "camera", "candle": "candle", "car": "automobile", "carrot": "carrot",
    "cat": "cat-face", "chair": "chair", "cheese": "cheese-wedge", "cherries": "cherries", "clock": "alarm-clock",
    "corn": "ear-of-corn", "crab": "crab", "crown": "crown", "dog": "dog-face", "drum": "drum",
    "egg": "egg", "envelope": "envelope", "fire": "fire", "fish": "tropical-fish", "flower": "sunflower",
    "frog": "frog", "gift": "wrapped-gift", "glasses": "glasses", "grapes": "grapes", "guitar": "guitar",
    "hammer": "hammer", "hat": "top-hat", "house": "house", "key": "key", "ladder": "ladder", "leaf": "maple-leaf",
    "lemon": "lemon", "lightning": "high-voltage", "lock": "locked", "magnet": "magnet", "mushroom": "mushroom",
    "owl": "owl", "pencil": "pencil", "penguin": "penguin", "pizza": "pizza", "rocket": "rocket",
    "scissors": "scissors", "snail": "snail", "snowflake": "snowflake", "strawberry": "strawberry", "sun": "sun",
    "train": "locomotive", "tree": "evergreen-tree", "trophy": "trophy", "tulip": "tulip",
    "turtle": "turtle", "umbrella": "umbrella", "watermelon": "watermelon",
}  # fmt: skip
"""Name in a question -> name of the drawing in fluent-emoji-flat."""

TEST_ONLY_ICONS: dict[str, str] = {
    "castle": "castle", "compass": "compass", "dice": "game-die", "elephant": "elephant", "helicopter": "helicopter",
    "hourglass": "hourglass-done", "octopus": "octopus", "pineapple": "pineapple", "robot": "robot", "tent": "tent",
    "tractor": "tractor", "violin": "violin",
}  # fmt: skip
"""Icons that only test pictures show."""

ICON_STYLES: dict[Split, tuple[str, ...]] = {
    "train": ("fluent", "noto", "emojione"),
    "validation": ("fluent", "noto", "emojione"),
    "test": ("fluent", "twemoji"),
}


@cache
def font_weights(family: str) -> tuple[int, ...]:
    """Weights that ship for a family: (400,) or (400, 700)."""
    return tuple(weight for weight in (400, 700) if (ASSETS / "fonts" / f"{family}-{weight}.woff2").exists())


@lru_cache(maxsize=768)
def font(family: str, size_px: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A face at a size in pixels; bold falls back to regular where the family has one weight."""
    weight = 700 if bold and 700 in font_weights(family) else 400
    return ImageFont.truetype(
        ASSETS / "fonts" / f"{family}-{weight}.woff2", size_px, layout_engine=ImageFont.Layout.BASIC
    )


@lru_cache(maxsize=4)
def _icon_sheet(style: str) -> Image.Image:
    return Image.open(ASSETS / f"icons-{style}.png").convert("RGBA")


@lru_cache(maxsize=512)
def icon(name: str, style: str) -> Image.Image:
    """An icon as 128 x 128 RGBA in one of ICON_STYLES; do not draw on it, it is cached."""
    index = (*ICONS, *TEST_ONLY_ICONS).index(name)
    return _tile(_icon_sheet(style), index, (ICON_PX, ICON_PX))


@lru_cache(maxsize=1)
def flag_codes() -> tuple[str, ...]:
    """ISO 3166 codes, lower case, of the flags that ship."""
    return tuple(json.loads((ASSETS / "flags.json").read_text()))


@lru_cache(maxsize=1)
def _flag_sheet() -> Image.Image:
    return Image.open(ASSETS / "flags.png").convert("RGBA")


@lru_cache(maxsize=512)
def flag(code: str) -> Image.Image:
    """A country's flag as 120 x 90 RGBA; do not draw on it, it is cached."""
    return _tile(_flag_sheet(), flag_codes().index(code), FLAG_SIZE)


def _tile(sheet: Image.Image, index: int, size: tuple[int, int]) -> Image.Image:
    left, top = index % SHEET_COLUMNS * size[0], index // SHEET_COLUMNS * size[1]
    return sheet.crop((left, top, left + size[0], top + size[1]))
