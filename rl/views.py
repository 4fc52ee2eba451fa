"""Drawn scenes as a thinker sees them, and sheets full of named things, with the name of what lies under every patch.

Shape letters: Y X patches.
"""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from foveate.models.config import ThinkerConfig
from foveate.models.image import image_grid, resize
from foveate.rl.tasks.anchors import MOST, AnchorKind, draw_anchor, pick_anchors, pick_dress, pick_kind
from foveate.rl.tasks.assets import ICON_STYLES, ICONS
from foveate.rl.tasks.augment import augment
from foveate.rl.tasks.canvas import SHAPES, Canvas
from foveate.rl.tasks.fact import FLAGS, draw_flag
from foveate.rl.tasks.palette import NAMED
from foveate.rl.tasks.scene import Box, Drawing, Mark, Scene
from foveate.rl.tasks.words import LETTERS

NAMES = (
    *(f"{color} {form}" for color in NAMED for form in SHAPES),
    *ICONS,
    *(f"letter {letter}" for letter in sorted({*LETTERS, *"IOQ"})),
    *(f"number {number}" for number in range(1, 40)),
    *(f"flag of {country}" for country in FLAGS.values()),
)
"""Everything that a question or a thought can name and that is recognised, not spelled."""
CLASS_OF = {name: index + 1 for index, name in enumerate(NAMES)}
NUM_NAMES = len(NAMES) + 1
FLAG_SHARE = 0.2
"""Of the groups of a sheet."""
SHEET_SCALE = 2
"""Sheets are drawn this much larger than they are seen, as pictures are."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Pixels as the tower gets them, and what is in them."""

    pixels_HW3: np.ndarray
    names_YX: np.ndarray
    """Class of the mark under the centre of every patch, int64; 0 for none."""


def draw_views(scene: Scene, rng: random.Random, config: ThinkerConfig) -> list[View]:
    """The scene at first view and one of the oracle's crops."""
    first = [step for q in scene.questions for step in q.steps[:1] if step.tool == "zoom"]
    boxes: list[Box] = [(0, 0, *scene.image.size)]
    boxes += [rng.choice(first).arguments["box"]] if first else []
    return [draw_view(scene.image, scene.marks, box, config) for box in boxes]


def draw_sheet(rng: random.Random) -> Drawing:
    """A picture crowded with things at the sizes of a first view, six times as many as a scene shows; no questions."""
    size = tuple(SHEET_SCALE * rng.randint(170, 448) for _ in range(2))
    canvas = Canvas(rng, "train", (size[0], size[1]))
    pitch = rng.uniform(32, 52) * SHEET_SCALE
    spots = [
        ((x + rng.uniform(0, 0.12)) * pitch, (y + rng.uniform(0, 0.12)) * pitch)
        for y in range(int(size[1] / pitch))
        for x in range(int(size[0] / pitch))
    ]
    rng.shuffle(spots)
    while spots:
        kind = pick_kind(rng)
        some, spots = spots[: MOST[kind] // 3], spots[MOST[kind] // 3 :]
        _draw_things(canvas, kind, some, pitch)
    image, move = augment(canvas.image, rng, canvas.theme.page)
    marks = tuple(Mark(name=mark.name, box=_shrunk(move(mark.box))) for mark in canvas.marks)
    small = image.resize((size[0] // SHEET_SCALE, size[1] // SHEET_SCALE), Image.Resampling.BICUBIC)
    return Drawing(small, (), marks)


def _shrunk(box: Box) -> Box:
    x0, y0, x1, y1 = box
    return x0 / SHEET_SCALE, y0 / SHEET_SCALE, x1 / SHEET_SCALE, y1 / SHEET_SCALE


def _draw_things(canvas: Canvas, kind: AnchorKind, spots: list[tuple[float, float]], pitch: float) -> None:
    """Things of one kind in one dress at the given places, or flags."""
    rng = canvas.rng
    canvas.style = rng.choice(ICON_STYLES[canvas.split])
    if rng.random() < FLAG_SHARE:
        for (x, y), code in zip(spots, rng.sample(tuple(FLAGS), len(spots)), strict=True):
            wide = pitch * rng.uniform(0.6, 0.85)
            box = (x, y, x + wide, y + wide * 0.75)
            draw_flag(canvas, code, box)
        return
    dress = pick_dress(canvas, kind)
    for (x, y), anchor in zip(spots, pick_anchors(canvas, kind, len(spots), canvas.theme.page), strict=True):
        side = pitch * rng.uniform(0.6, 0.85)
        draw_anchor(canvas, anchor, (x, y, x + side, y + side), dress)


def draw_view(picture: Image.Image, marks: tuple[Mark, ...], box: Box, config: ThinkerConfig) -> View:
    """What the tower sees of the part `box` (whole pixels) of a picture."""
    left, top, right, bottom = box
    crop = picture.crop((round(left), round(top), round(right), round(bottom)))
    grid = image_grid(*crop.size, config.vision, config.image)
    columns, rows = grid.w / (right - left), grid.h / (bottom - top)
    names_YX = np.zeros((grid.h, grid.w), dtype=np.int64)
    for mark in marks:
        x0, y0, x1, y1 = mark.box
        across = _centres((x0 - left) * columns, (x1 - left) * columns, grid.w)
        down = _centres((y0 - top) * rows, (y1 - top) * rows, grid.h)
        names_YX[down, across] = CLASS_OF.get(mark.name, 0)
    return View(pixels_HW3=resize(crop, grid, config.vision.patch_size), names_YX=names_YX)


def _centres(start: float, end: float, count: int) -> slice:
    """The patches whose centres lie between two places along a side of `count` patches, at least the one between."""
    first, stop = round(start), round(end)
    if stop <= first:
        first = int((start + end) / 2)
        stop = first + 1
    return slice(min(count, max(0, first)), min(count, max(0, stop)))
