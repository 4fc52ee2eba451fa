"""A page's characters and lines say what is drawn, and a page depends on its seed alone."""

import random

import numpy as np
import pytest
from PIL import Image

from foveate.models.config import NANO
from foveate.rl.lessons.pages import BLOCK_PX, CELL_PX, CLASS_OF, Page, PageWriter, corpus_words, crop_page
from foveate.rl.lessons.views import label_view, page_drawing
from foveate.rl.tasks.scene import Glyph


@pytest.fixture(scope="module")
def writer() -> PageWriter:
    return PageWriter("train", corpus_words())


def pages(writer: PageWriter, count: int, difficulty: float = 1.0) -> list[Page]:
    return [writer.page(random.Random(seed), difficulty=difficulty) for seed in range(count)]


def test_same_seed_same_page(writer: PageWriter) -> None:
    first, second = (writer.page(random.Random(5)) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.lines == second.lines


def test_sides_are_whole_blocks_and_lines_lie_inside(writer: PageWriter) -> None:
    for page in pages(writer, 20):
        assert page.image.width % BLOCK_PX == page.image.height % BLOCK_PX == 0
        for line in page.lines:
            x0, y0, x1, y1 = line.box_px
            assert 0 <= x0 < x1 <= page.image.width + 2
            assert 0 <= y0 < y1 <= page.image.height + 2


def test_ink_lies_where_the_labels_say_and_each_character_starts_once(writer: PageWriter) -> None:
    least, most = NANO.image.min_pixels, NANO.image.max_pixels
    as_drawn = [p for p in pages(writer, 20, difficulty=0.0) if least <= p.image.width * p.image.height <= most]
    assert len(as_drawn) > 5
    for page in as_drawn:
        labels = label_view(page_drawing(page), (0, 0, *page.image.size), NANO)
        dark = np.asarray(page.image.convert("L")) < 128
        (rows, columns), (tall, wide) = labels.glyphs_YX.shape, CELL_PX
        inked_YX = dark.reshape(rows, tall, columns, wide).any((1, 3))
        assert inked_YX[labels.glyphs_YX > 0].mean() > 0.65
        near_YX = labels.glyphs_YX > 0  # and a cell around: ink hangs below the baseline and ends inside a cell
        for axis in (0, 1):
            near_YX = near_YX | np.roll(near_YX, 1, axis) | np.roll(near_YX, -1, axis)
        assert inked_YX[~near_YX].mean() < 0.15  # rules between lines
        assert (labels.glyphs_YX[labels.starts_YX == 1] > 0).all()
        assert (labels.starts_YX == 1).any()


def test_a_character_narrower_than_a_cell_has_a_class_where_it_begins() -> None:
    side = 448  # seen as it is drawn
    narrow = [Glyph("i", (40 * idx + start, 40, 40 * idx + start + 1.5, 56)) for idx, start in enumerate(range(11))]
    drawing = page_drawing(Page(image=Image.new("RGB", (side, side)), glyphs=tuple(narrow), lines=()))
    labels = label_view(drawing, (0, 0, side, side), NANO)
    inked = np.argwhere(labels.glyphs_YX == CLASS_OF["i"])
    assert {int(row) for row, _ in inked} == {5, 6}
    assert np.array_equal(labels.starts_YX == 1, labels.glyphs_YX == CLASS_OF["i"])
    assert len(inked) == 2 * len(narrow)
    for glyph, column in zip(narrow, sorted({int(column) for _, column in inked}), strict=True):
        assert column <= (glyph.box[0] + 0.75) / CELL_PX[1] <= column + 1


def test_the_characters_of_a_page_are_those_of_its_lines(writer: PageWriter) -> None:
    for page in pages(writer, 10):
        assert "".join(glyph.character for glyph in page.glyphs) == "".join(line.text for line in page.lines)
        assert {glyph.character for glyph in page.glyphs} - {" "} <= set(CLASS_OF)


def test_a_crop_is_a_page_with_its_texts_in_reading_order() -> None:
    def written(text: str, x: float, y: float) -> list[Glyph]:
        return [Glyph(sign, (x + 10 * idx, y, x + 10 * idx + 10, y + 14)) for idx, sign in enumerate(text)]

    glyphs = [*written("tea", 40, 61), *written("4.50", 120, 58), *written("cut", 190, 60), *written("7", 50, 90),
              *written("jam", 60, 30)]  # fmt: skip
    image = Image.new("RGB", (300, 200))
    image.putpixel((50, 25), (255, 0, 0))
    page = crop_page(image, glyphs, (30.2, 19.8, 200, 120))
    assert [line.text for line in page.lines] == ["jam", "tea", "4.50"]
    assert page.lines[0].box_px == (30, 10, 60, 24)
    assert page.image.size == (170, 100)
    assert page.image.getpixel((20, 5)) == (255, 0, 0)
