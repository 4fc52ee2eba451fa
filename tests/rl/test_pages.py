"""A page's glyph map and lines say what is drawn, and a page depends on its seed alone."""

import random

import numpy as np
import pytest

from foveate.rl.pages import BLOCK_PX, CELL_PX, CLASS_OF, Page, PageWriter, corpus_words


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
        assert page.glyphs_YX.shape == (page.image.height // CELL_PX[0], page.image.width // CELL_PX[1])
        for line in page.lines:
            x0, y0, x1, y1 = line.box_px
            assert 0 <= x0 < x1 <= page.image.width + 2
            assert 0 <= y0 < y1 <= page.image.height + 2


def test_ink_lies_where_the_map_says(writer: PageWriter) -> None:
    for page in pages(writer, 10, difficulty=0.0):
        dark = np.asarray(page.image.convert("L")) < 128
        (rows, columns), (tall, wide) = page.glyphs_YX.shape, CELL_PX
        cells = dark.reshape(rows, tall, columns, wide).any((1, 3))
        assert cells[page.glyphs_YX > 0].mean() > 0.7
        assert cells[page.glyphs_YX == 0].mean() < 0.2


def test_every_mapped_character_is_in_a_line(writer: PageWriter) -> None:
    for page in pages(writer, 10):
        written = {CLASS_OF[c] for line in page.lines for c in line.text if c in CLASS_OF}
        assert set(np.unique(page.glyphs_YX)) - {0} <= written


def test_one_start_for_each_character_that_is_wide_enough(writer: PageWriter) -> None:
    for page in pages(writer, 10, difficulty=0.0):
        starts = (np.diff(page.starts_YX.astype(int), axis=1, prepend=0) == 1).any(0).sum()
        assert starts > 0
        assert (page.glyphs_YX[page.starts_YX] > 0).mean() > 0.9
