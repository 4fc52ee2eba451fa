"""Drawn scenes as a thinker sees them, and sheets full of named things, with labels for every place.

A label says which thing lies under a patch, which character under a cell, and whether a character begins in it; the
text goes with them, for what a merged token spells (foveate.rl.lessons.spelling).

Shape letters: Y X patches or cells of patches.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from foveate.models.config import ThinkerConfig
from foveate.models.image import Grid, image_grid, resize
from foveate.rl.lessons.pages import CELL_PX, CLASS_OF, Page
from foveate.rl.lessons.spelling import IGNORED, LEGIBLE_PX, Text, text_of
from foveate.rl.tasks.anchors import MOST, AnchorKind, draw_anchor, pick_anchors, pick_dress, pick_kind
from foveate.rl.tasks.assets import ICON_STYLES, ICONS
from foveate.rl.tasks.augment import augment
from foveate.rl.tasks.canvas import SHAPES, Canvas
from foveate.rl.tasks.fact import FLAGS, draw_flag
from foveate.rl.tasks.palette import NAMED
from foveate.rl.tasks.scene import Box, Drawing, Glyph, Mark, Scene, original_boxes
from foveate.rl.tasks.words import LETTERS

NAMES = (
    *(f"{color} {form}" for color in NAMED for form in SHAPES),
    *ICONS,
    *(f"letter {letter}" for letter in sorted({*LETTERS, *"IOQ"})),
    *(f"number {number}" for number in range(1, 40)),
    *(f"flag of {country}" for country in FLAGS.values()),
)
"""Everything that a question or a thought can name and that is recognised, not spelled."""
NAME_CLASS = {name: index + 1 for index, name in enumerate(NAMES)}
NUM_NAMES = len(NAMES) + 1
FLAG_SHARE = 0.5
"""Of the groups of a sheet."""
MOST_CROPS = 3
SHEET_SCALE = 2
"""Sheets are drawn this much larger than they are seen, as pictures are."""


@dataclass(frozen=True, kw_only=True)
class ViewLabels:
    """What lies where in a view; maps are int64."""

    names_YX: np.ndarray
    """Class of the mark under the centre of every patch; 0 for none, IGNORED where nobody knows."""
    glyphs_YX: np.ndarray
    """Class of the character under every cell; 0 for none, IGNORED where text is too small to be read."""
    starts_YX: np.ndarray
    """1 where a character begins in a cell, else 0; IGNORED as above."""
    text: Text

    @property
    def grid(self) -> Grid:
        """The patches of the view."""
        return Grid(t=1, h=self.names_YX.shape[0], w=self.names_YX.shape[1])


@dataclass(frozen=True, kw_only=True)
class View:
    """Pixels as the tower gets them, and what is in them."""

    pixels_HW3: np.ndarray
    labels: ViewLabels


def draw_views(scene: Scene, rng: random.Random, config: ThinkerConfig) -> list[View]:
    """Some of the oracle's crops of a scene and, for every other scene, its first view."""
    crops = sorted({box for question in scene.questions for box in original_boxes(question)})
    boxes: list[Box] = [(0, 0, *scene.image.size)] if rng.random() < 0.5 else []
    return [draw_view(scene, box, config) for box in [*boxes, *rng.sample(crops, min(MOST_CROPS, len(crops)))]]


def draw_sheet(rng: random.Random, difficulty: float = 1.0) -> Drawing:
    """A picture with things at the sizes of a first view: one at `difficulty` 0, a crowd at 1; no questions."""
    size = tuple(SHEET_SCALE * rng.randint(170, 448) for _ in range(2))
    canvas = Canvas(rng, "train", (size[0], size[1]))
    pitch = rng.uniform(32, 52) * SHEET_SCALE
    spots = [
        ((x + rng.uniform(0, 0.12)) * pitch, (y + rng.uniform(0, 0.12)) * pitch)
        for y in range(int(size[1] / pitch))
        for x in range(int(size[0] / pitch))
    ]
    rng.shuffle(spots)
    spots = spots[: max(1, round(difficulty * len(spots)))]
    codes = rng.sample(tuple(FLAGS), len(FLAGS))
    while spots:
        kind = pick_kind(rng)
        some, spots = spots[: MOST[kind] // 3], spots[MOST[kind] // 3 :]
        _draw_things(canvas, kind, some, pitch, codes)
    image, move = augment(canvas.image, rng, canvas.theme.page)
    marks = tuple(Mark(name=mark.name, box=_shrunk(move(mark.box))) for mark in canvas.marks)
    small = image.resize((size[0] // SHEET_SCALE, size[1] // SHEET_SCALE), Image.Resampling.BICUBIC)
    glyphs = tuple(Glyph(glyph.character, _shrunk(move(glyph.box))) for glyph in canvas.glyphs)
    return Drawing(small, (), marks, glyphs)


def _shrunk(box: Box) -> Box:
    x0, y0, x1, y1 = box
    return x0 / SHEET_SCALE, y0 / SHEET_SCALE, x1 / SHEET_SCALE, y1 / SHEET_SCALE


def _draw_things(
    canvas: Canvas, kind: AnchorKind, spots: list[tuple[float, float]], pitch: float, codes: list[str]
) -> None:
    """Things of one kind in one dress at the given places, or flags of the `codes` left, each of which comes once."""
    rng = canvas.rng
    canvas.style = rng.choice(ICON_STYLES[canvas.split])
    if rng.random() < FLAG_SHARE and len(spots) <= len(codes):
        for x, y in spots:
            wide = pitch * rng.uniform(0.6, 0.85)
            box = (x, y, x + wide, y + wide * 0.75)
            draw_flag(canvas, codes.pop(), box)
        return
    dress = pick_dress(canvas, kind)
    for (x, y), anchor in zip(spots, pick_anchors(canvas, kind, len(spots), canvas.theme.page), strict=True):
        side = pitch * rng.uniform(0.6, 0.85)
        draw_anchor(canvas, anchor, (x, y, x + side, y + side), dress)


def draw_view(drawing: Drawing | Scene, box: Box, config: ThinkerConfig) -> View:
    """What the tower sees of the part `box` (whole pixels) of a drawing."""
    crop = drawing.image.crop(box)
    grid = image_grid(*crop.size, config.vision, config.image)
    pixels_HW3 = resize(crop, grid, config.vision, config.image)
    return View(pixels_HW3=pixels_HW3, labels=label_view(drawing, box, config))


def label_view(drawing: Drawing | Scene, box: Box, config: ThinkerConfig) -> ViewLabels:
    """What lies where in the part `box` (whole pixels) of a drawing."""
    grid = image_grid(round(box[2] - box[0]), round(box[3] - box[1]), config.vision, config.image)
    names_YX = np.zeros((grid.h, grid.w), dtype=np.int64)
    for mark in drawing.marks:
        x0, y0, x1, y1 = _within(mark.box, box, (grid.w, grid.h))
        names_YX[_centres(y0, y1, grid.h), _centres(x0, x1, grid.w)] = NAME_CLASS.get(mark.name, 0)
    glyphs_YX, starts_YX = _text_maps(drawing.glyphs, box, grid, config.vision.patch_size)
    text, _ = text_of(drawing.glyphs, box, grid, config.vision)
    return ViewLabels(names_YX=names_YX, glyphs_YX=glyphs_YX, starts_YX=starts_YX, text=text)


def page_drawing(page: Page) -> Drawing:
    """A page as a drawing without questions and named things."""
    return Drawing(page.image, (), (), page.glyphs)


def nameless(labels: ViewLabels) -> ViewLabels:
    """The labels of a view whose things have names that nobody wrote down."""
    return replace(labels, names_YX=np.full_like(labels.names_YX, IGNORED))


def _text_maps(glyphs: tuple[Glyph, ...], part: Box, grid: Grid, patch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which character lies under each cell of a view, and where one begins."""
    rows, columns = grid.h * patch_size // CELL_PX[0], grid.w * patch_size // CELL_PX[1]
    glyphs_YX, starts_YX = (np.zeros((rows, columns), dtype=np.int64) for _ in range(2))
    for character, glyph_box in glyphs:
        x0, y0, x1, y1 = _within(glyph_box, part, (columns, rows))
        if x1 <= 0 or y1 <= 0 or x0 >= columns or y0 >= rows or character not in CLASS_OF:
            continue
        down, across = _centres(y0, y1, rows), _centres(x0, x1, columns)
        legible = (y1 - y0) * CELL_PX[0] >= LEGIBLE_PX
        glyphs_YX[down, across] = CLASS_OF[character] if legible else IGNORED
        starts_YX[down, across] = 0 if legible else IGNORED
        if legible and x0 >= 0:
            starts_YX[down, across.start : across.start + 1] = 1
    return glyphs_YX, starts_YX


def _within(box: Box, part: Box, counts: tuple[int, int]) -> Box:
    """A box of the drawing in the cells of a part of it, `counts` cells across and down."""
    across, down = counts[0] / (part[2] - part[0]), counts[1] / (part[3] - part[1])
    return (
        (box[0] - part[0]) * across,
        (box[1] - part[1]) * down,
        (box[2] - part[0]) * across,
        (box[3] - part[1]) * down,
    )


def _centres(start: float, end: float, count: int) -> slice:
    """The places of a side of `count` whose centres lie between `start` and `end`, at least the one between."""
    first, stop = round(start), round(end)
    if stop <= first:
        first = int((start + end) / 2)
        stop = first + 1
    return slice(min(count, max(0, first)), min(count, max(0, stop)))
