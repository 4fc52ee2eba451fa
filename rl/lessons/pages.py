"""Pages full of text whose every character is known: they teach the tower and the decoder to read.

A page holds lines of random strings and words in many fonts, sizes and colours. It is drawn at a random scale and
reduced or enlarged, as a crop of a picture is, then damaged by blur, noise and JPEG.

Shape letters: H W pixels.
"""

import io
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from foveate.rl.tasks.assets import FONTS, Split, font_weights
from foveate.rl.tasks.assets import font as asset_font
from foveate.rl.tasks.compare import COUNTED_GLYPH
from foveate.rl.tasks.lettering import lettering
from foveate.rl.tasks.scene import Box, Glyph
from foveate.tools.corpus import facts

CELL_PX = (8, 4)
"""Height and width of a cell, the finest place that a label speaks of."""
CHARACTERS = "".join(chr(code) for code in range(33, 127)) + "€£°"
NUM_CLASSES = len(CHARACTERS) + 1
SIZES_PX, EASY_SIZES_PX = (15.0, 38.0), (18.0, 30.0)
"""Font sizes of hard and of easy pages."""
SCALES = (0.6, 0.8, 1.0, 1.0, 1.4, 2.0)
"""A page is drawn this much larger than it is seen."""
CLASS_OF = {character: index + 1 for index, character in enumerate(CHARACTERS)}
BLOCK_PX = 32
"""Sides of a page are multiples of this: nano's merged blocks."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of text on a page."""

    text: str
    box_px: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A drawn page with everything that is on it."""

    image: Image.Image
    glyphs: tuple[Glyph, ...]
    """Every character, boxes in pixels of the image."""
    lines: tuple[Line, ...]
    """In reading order, boxes in pixels of the image."""


@lru_cache(maxsize=1)
def corpus_words() -> tuple[str, ...]:
    """Every word of the search corpus, a vocabulary that ships with the package."""
    text = " ".join(fact.text for fact in facts())
    return tuple(sorted({word for word in re.findall(r"[A-Za-z]+", text) if len(word) > 1}))


def random_text(rng: random.Random, words: Sequence[str]) -> str:
    """A piece of text as pictures hold them: words, a number, a code, or any characters at all."""
    kind = rng.random()
    if kind < 0.40:
        text = " ".join(_word(rng, words) for _ in range(rng.choice((1, 1, 2, 3))))
        return rng.choice((text, text, text.upper(), text.capitalize(), text.lower()))
    if kind < 0.65:
        return _number(rng)
    if kind < 0.85:
        return _code(rng)
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(1, 12)))


def _word(rng: random.Random, words: Sequence[str]) -> str:
    """A known word, or one that nobody knows, so that reading does not become guessing."""
    if rng.random() < 0.5:
        return rng.choice(words)
    letters = ("bcdfghjklmnpqrstvwxz", "aeiouy")
    return "".join(rng.choice(letters[index % 2]) for index in range(rng.randint(3, 9)))


def _number(rng: random.Random) -> str:
    value = rng.randint(0, 10 ** rng.randint(1, 6))
    return rng.choice(
        (
            f"{value}",
            f"{value / 100:.2f}",
            f"{value:,}",
            f"{value / 10:.1f}%",
            f"${value / 100:.2f}",
            f"€{value / 100:.2f}",
            f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}",
            f"{rng.randint(1990, 2035)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
        )
    )


def _code(rng: random.Random) -> str:
    upper, digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
    pattern = rng.choice(("A9", "AA99", "A9-A9", "AAA-999", "A-99", "99A", "AA-9999", "A9A9A", "AAAA"))
    letters = upper if rng.random() < 0.8 else upper.lower()
    return "".join(rng.choice(letters) if c == "A" else rng.choice(digits) if c == "9" else c for c in pattern)


def _colours(rng: random.Random) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Background and ink with enough contrast."""
    while True:
        paper, ink = (tuple(rng.randint(0, 255) for _ in range(3)) for _ in range(2))
        if rng.random() < 0.6:
            paper = tuple(rng.randint(225, 255) for _ in range(3))
        if rng.random() < 0.5:
            ink = tuple(rng.randint(0, 70) for _ in range(3))
        luma = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (paper, ink)]
        if abs(luma[0] - luma[1]) > 75:
            return paper, ink  # type: ignore[return-value]


class PageWriter:
    """Draws pages in the fonts of one split."""

    def __init__(self, split: Split, words: Sequence[str]) -> None:
        self.faces = [(family, weight >= 700) for family in FONTS[split] for weight in font_weights(family)]
        self.words = words

    def page(self, rng: random.Random, *, max_blocks: int = 200, difficulty: float = 1.0) -> Page:
        """A page of at most `max_blocks` blocks of 32 x 32 px.

        At `difficulty` 0 it is black on white, undamaged and in middle sizes; at 1 anything that a picture may hold.
        """
        cols = min(rng.randint(4, 18), max_blocks // 2)
        rows = max(2, min(rng.randint(3, 18), max_blocks // cols))
        width, height = cols * BLOCK_PX, rows * BLOCK_PX
        scale = rng.choice(SCALES) if rng.random() < difficulty else 1.0
        canvas_px = (round(width * scale), round(height * scale))
        hard = rng.random() < difficulty
        paper, ink = _colours(rng) if hard else ((255, 255, 255), (0, 0, 0))
        image = Image.new("RGB", canvas_px, paper)
        glyphs: list[Glyph] = []
        lines = self._lines(rng, image, ink, scale, SIZES_PX if hard else EASY_SIZES_PX, glyphs)
        if scale != 1.0:
            image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
        return Page(image=damage(image, rng) if hard else image, glyphs=tuple(glyphs), lines=tuple(lines))

    def _lines(
        self,
        rng: random.Random,
        image: Image.Image,
        ink: tuple[int, int, int],
        scale: float,
        sizes_px: tuple[float, float],
        glyphs: list[Glyph],
    ) -> list[Line]:
        """Fill the page from the top; fonts and sizes change often, for the many texts of one page teach the more."""
        draw = ImageDraw.Draw(image)
        lines: list[Line] = []
        top = rng.uniform(0, 12) * scale
        size = _size(rng, sizes_px, scale)
        face = rng.choice(self.faces)
        while top + size * 1.3 < image.height:
            left = rng.uniform(2, 14) * scale
            while left < image.width - size * 2:
                if rng.random() < 0.5:
                    face = rng.choice(self.faces)
                font = asset_font(face[0], size, face[1])
                text = self._fit(rng, font, image.width - left - 2)
                if text:
                    line = _draw_line(draw, (left, top), text, font, ink, scale, glyphs)
                    lines.append(line)
                    left += font.getlength(text)
                left += size * rng.uniform(0.5, 1.6)
            if rng.random() < 0.12:
                draw.line((0, top - 1, image.width, top - 1), fill=ink, width=max(1, round(scale)))
            top += size * rng.uniform(1.2, 1.6)
            size = _size(rng, sizes_px, scale) if rng.random() < 0.5 else size
        return lines

    def _fit(self, rng: random.Random, font: ImageFont.FreeTypeFont, width_px: float) -> str:
        for _ in range(3):
            text = random_text(rng, self.words)
            if font.getlength(text) <= width_px:
                return text
        return ""


def _size(rng: random.Random, sizes_px: tuple[float, float], scale: float) -> int:
    """A font size on the unreduced page; small ones are as likely as large ones by ratio."""
    low, high = sizes_px
    return round(low * (high / low) ** rng.random() * scale)


def _draw_line(
    draw: ImageDraw.ImageDraw,
    origin: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    ink: tuple[int, int, int],
    scale: float,
    glyphs: list[Glyph],
) -> Line:
    """Draw a line and add its characters; boxes are in pixels of the reduced page."""
    draw.text(origin, text, font=font, fill=ink)
    x0, y0, x1, y1 = (value / scale for value in draw.textbbox(origin, text, font=font))
    for character, box in lettering(text, origin, font):
        glyphs.append(Glyph(character, (box[0] / scale, box[1] / scale, box[2] / scale, box[3] / scale)))
    return Line(text=text, box_px=(round(x0), round(y0), round(x1), round(y1)))


def damage(image: Image.Image, rng: random.Random) -> Image.Image:
    """Blur, noise, contrast and JPEG artefacts, each with some probability."""
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.4:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 14), (image.height, image.width, 1))
        image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=rng.randint(35, 90))
        image = Image.open(buffer).convert("RGB")
    return image


def text_runs(glyphs: Sequence[Glyph]) -> list[list[Glyph]]:
    """Characters that were drawn as one text: each begins near where the one before ends, at the same height."""
    runs: list[list[Glyph]] = []
    for glyph in glyphs:
        last = runs[-1][-1].box if runs else None
        tall = glyph.box[3] - glyph.box[1]
        joined = (
            last is not None and abs(glyph.box[0] - last[2]) < 0.6 * tall and abs(glyph.box[1] - last[1]) < 0.2 * tall
        )
        if joined and abs(glyph.box[3] - last[3]) < 0.2 * tall:  # type: ignore[index]
            runs[-1].append(glyph)
        else:
            runs.append([glyph])
    return runs


def written(run: Sequence[Glyph]) -> str:
    """The text of a run."""
    return "".join(glyph.character for glyph in run)


def crop_page(image: Image.Image, glyphs: Sequence[Glyph], box_px: Box) -> Page:
    """A part of a drawing as a page: its texts that lie inside, in reading order; dots to be counted are none."""
    left, top, right, bottom = map(round, box_px)
    inside = [
        Glyph(character, (x0 - left, y0 - top, x1 - left, y1 - top))
        for character, (x0, y0, x1, y1) in glyphs
        if left <= x0 and top <= y0 and x1 <= right and y1 <= bottom
    ]
    letters = [glyph for glyph in inside if glyph.character != COUNTED_GLYPH]
    whole = [run for run in text_runs(letters) if len(run) > 1 and written(run).strip()]
    return Page(
        image=image.crop((left, top, right, bottom)),
        glyphs=tuple(inside),
        lines=tuple(_reading_order(map(_line_of, whole))),
    )


def _line_of(run: Sequence[Glyph]) -> Line:
    x0, y0, x1, y1 = run[0].box[0], run[0].box[1], run[-1].box[2], run[-1].box[3]
    text = written(run)
    return Line(text=text, box_px=(round(x0), round(min(y0, run[-1].box[1])), round(x1), round(y1)))


def _reading_order(lines: Iterable[Line]) -> list[Line]:
    """Rows from the top, each from the left; a text begins a row when its middle is below the row's first one."""
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.box_px[1] + line.box_px[3]):
        if rows and (line.box_px[1] + line.box_px[3]) / 2 < rows[-1][0].box_px[3]:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box_px[0])]
