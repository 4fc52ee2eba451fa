"""A table of text: measured, drawn in one of several styles, with the box of every cell's text.

The style "dotted" belongs to test alone.
"""

from dataclasses import dataclass
from typing import Literal

from foveate.rl.tasks.canvas import Canvas
from foveate.rl.tasks.palette import ink_on
from foveate.rl.tasks.scene import Box

Style = Literal["lines", "full", "stripes", "plain", "dotted"]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The words of a table."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    """cells[row][column]."""
    corner: str = ""


def column_widths(canvas: Canvas, grid: Grid) -> list[int]:
    """Width of each column in px, that of the row names first, with its padding."""
    texts = [(grid.corner, *grid.rows)]
    texts += [(name, *(line[index] for line in grid.cells)) for index, name in enumerate(grid.columns)]
    padding = int(canvas.small_px * 1.3)
    return [max(canvas.measure(text, canvas.small_px, bold=True)[0] for text in column) + padding for column in texts]


def row_height(canvas: Canvas) -> int:
    """Height of a line in px; the same for a whole picture."""
    return int(canvas.small_px * 1.65)


def grid_size(canvas: Canvas, grid: Grid) -> tuple[int, int]:
    """Width and height of a drawn table in px."""
    return sum(column_widths(canvas, grid)), row_height(canvas) * (len(grid.rows) + 1)


def pick_style(canvas: Canvas) -> Style:
    """A style for the tables of a picture."""
    if canvas.split == "test" and canvas.rng.random() < 0.35:
        return "dotted"
    return canvas.rng.choice(("lines", "full", "stripes", "plain"))


def draw_grid(canvas: Canvas, grid: Grid, at: tuple[float, float], style: Style | None = None) -> list[list[Box]]:
    """Draw a table with its top left corner at `at`; returns the text boxes [row][column]."""
    style = style or pick_style(canvas)
    widths, step, theme = column_widths(canvas, grid), row_height(canvas), canvas.theme
    x0, y0 = round(at[0]), round(at[1])
    x1, y1 = x0 + sum(widths), y0 + step * (len(grid.rows) + 1)
    canvas.card((x0, y0, x1, y1), fill=theme.card)
    head_fill = theme.accent if style in ("stripes", "full") else theme.card
    canvas.draw.rectangle((x0, y0, x1, y0 + step), fill=head_fill)
    rule_grid(canvas, style, (x0, y0, x1, y1), widths, step)
    ink, pad = canvas.ink(theme.card), canvas.small_px * 0.5
    head_ink = ink_on(head_fill)
    canvas.text((x0 + pad, y0 + step / 2), grid.corner, bold=True, fill=head_ink, align="lm")
    lefts = [x0 + sum(widths[: index + 1]) for index in range(len(grid.columns))]
    for left, name in zip(lefts, grid.columns, strict=True):
        canvas.text((left + pad, y0 + step / 2), name, bold=True, fill=head_ink, align="lm")
    boxes = []
    for index, (name, cells) in enumerate(zip(grid.rows, grid.cells, strict=True)):
        y = y0 + step * (index + 1.5)
        canvas.text((x0 + pad, y), name, fill=ink, align="lm")
        boxes.append(
            [canvas.text((left + pad, y), cell, fill=ink, align="lm") for left, cell in zip(lefts, cells, strict=True)]
        )
    return boxes


def rule_grid(canvas: Canvas, style: Style, box: tuple[int, int, int, int], widths: list[int], step: int) -> None:
    """The rules and stripes of a table."""
    x0, y0, x1, y1 = box
    line, draw = canvas.theme.line, canvas.draw
    rows = range(y0 + step, y1, step)
    if style == "stripes":
        soft = tuple((3 * a + b) // 4 for a, b in zip(canvas.theme.card, line, strict=True))
        for y in range(y0 + step, y1, 2 * step):
            draw.rectangle((x0, y, x1, y + step), fill=soft)
    elif style in ("lines", "full"):
        for y in rows:
            draw.line((x0, y, x1, y), fill=line, width=2)
    elif style == "dotted":
        for y in (*rows, y1):
            for x in range(x0, x1, 12):
                draw.rectangle((x, y, x + 3, y + 2), fill=line)
    if style == "full":
        x = x0
        for width in widths:
            draw.line((x, y0, x, y1), fill=line, width=2)
            x += width
        draw.rectangle(box, outline=line, width=2)
    elif style == "plain":
        draw.line((x0, y0 + step, x1, y0 + step), fill=canvas.ink(canvas.theme.card), width=3)
