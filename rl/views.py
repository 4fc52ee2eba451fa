"""Drawn scenes as a thinker sees them, whole or through a crop, with the name of what lies under every patch.

Shape letters: Y X patches.
"""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

from foveate.models.config import ThinkerConfig
from foveate.models.image import image_grid, resize
from foveate.rl.tasks.assets import ICONS
from foveate.rl.tasks.canvas import SHAPES
from foveate.rl.tasks.fact import FLAGS
from foveate.rl.tasks.palette import NAMED
from foveate.rl.tasks.scene import Box, Mark, Scene
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
    """The patches whose centres lie between two places along a side of `count` patches."""
    return slice(min(count, max(0, round(start))), min(count, max(0, round(end))))
