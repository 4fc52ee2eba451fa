"""Family `table`: look up a cell by its row and its column.

Three pages: several small tables with a large name each (one zoom, then read along the row), one large grid whose row
and column marks are seen at first view (one zoom onto the cell), and a directory in which entries stand under the large
first letter of their names (one zoom onto the letter's section).
"""

import random
from dataclasses import dataclass
from itertools import compress, cycle

from foveate.rl.tasks.anchors import Anchor, draw_anchor, draw_mark, pick_anchors, pick_dress
from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.canvas import Canvas
from foveate.rl.tasks.grid import Grid, draw_grid, grid_size
from foveate.rl.tasks.layout import arrange
from foveate.rl.tasks.oracle import Draft, Look, finish, place_phrase, seen_at, union
from foveate.rl.tasks.scene import Box, Drawing
from foveate.rl.tasks.setting import Ground, draw_setting, pick_setting
from foveate.rl.tasks.words import CITIES, GOODS, KINDS, LETTERS, NAMES, PLACES, Kind, distinct, short

COLUMNS: dict[str, str] = {
    "Price": "price", "Stock": "number", "Code": "code", "Room": "number", "Weight": "value", "Date": "date",
    "Time": "time", "Lot": "code", "Owner": "name", "City": "city", "Size": "number", "Rate": "value",
}  # fmt: skip
"""Heading of a column -> kind of its values."""
ASK_NAMED = (
    "In table {table}, what is the {column} of {row}?",
    "What is the {column} of {row} in table {table}?",
    "Look at table {table}. Which {column} does {row} have?",
)
ASK_GRID = (
    "What does the cell in row {row}, column {column} say?",
    "What is written in row {row} and column {column}?",
    "Read the cell at row {row}, column {column}.",
)
ASK_LIST = (
    "Which {kind} does the list give for {row}?",
    "What is the {kind} of {row} in the list?",
    "Find {row} in the list. Which {kind} is next to it?",
)


def draw(rng: random.Random, split: Split) -> Drawing:
    """A page of tables, a grid or a directory, with questions."""
    canvas = Canvas(rng, split)
    page = rng.choices((named_page, marked_page, list_page), (45, 25, 30))[0]
    drafts = page(canvas, draw_setting(canvas, pick_setting(rng, split)))
    return finish(canvas, rng.sample(drafts, min(len(drafts), rng.randint(2, 5))), "table")


def named_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """Several small tables, each with a large letter or number."""
    rng = canvas.rng
    canvas.small_px = min(canvas.small_px, 24)
    size = canvas.small_px
    num_rows, num_columns = rng.randint(3, 5), rng.randint(2, 3)
    head = canvas.big(rng.uniform(24, 30))
    pool = short(rng.choice((GOODS, PLACES, CITIES, NAMES)))
    columns = rng.sample(tuple(COLUMNS), num_columns)
    first = make_grid(canvas, pool, num_rows, columns)
    while grid_size(canvas, first)[0] > 500 and len(columns) > 2:
        columns = columns[:-1]
        first = make_grid(canvas, pool, num_rows, columns)
    wide, tall = grid_size(canvas, first)
    block = (max(wide, head * 2) + size, tall + head + size * 1.5)
    cells = arrange(rng, rng.choice(("grid", "scatter")), ground.area, block, rng.randint(3, 8))
    names = table_names(rng, len(cells))
    drafts = []
    for index, (cell, name) in enumerate(zip(cells, names, strict=True)):
        grid = make_grid(canvas, pool, num_rows, columns) if index else first
        x, y = cell[0] + size / 2, cell[1]
        mark = draw_mark(canvas, name, (x, y, x + head * (0.8 + 0.5 * len(name)), y + head), canvas.ink(ground.surface),
                         canvas.head_font)  # fmt: skip
        place = (x, y + head + size * 0.6)
        boxes = draw_grid(canvas, grid, place)
        wide, tall = grid_size(canvas, grid)
        lines = (*place, place[0] + wide, place[1] + tall)
        row, column = rng.randrange(len(grid.rows)), rng.randrange(len(grid.columns))
        drafts.append(named_draft(canvas, name, grid, (row, column), (union((mark, lines)), lines, boxes[row][column])))
    return drafts


def table_names(rng: random.Random, count: int) -> list[str]:
    """Names of tables: letters, or the numbers from 1 to `count`."""
    if rng.random() < 0.7:
        return rng.sample(LETTERS, count)
    return [str(number) for number in rng.sample(range(1, count + 1), count)]


def make_grid(canvas: Canvas, pool: tuple[str, ...], num_rows: int, columns: list[str]) -> Grid:
    """A table with rows from a pool of words and columns of values."""
    rows = canvas.rng.sample(pool, num_rows)
    cells = tuple(tuple(KINDS[COLUMNS[column]].make(canvas.rng) for column in columns) for _ in rows)
    return Grid(rows=tuple(rows), columns=tuple(columns), cells=cells, corner=canvas.rng.choice(("", "Item", "Name")))


def named_draft(canvas: Canvas, name: str, grid: Grid, at: tuple[int, int], seen: tuple[Box, Box, Box]) -> Draft:
    """The question about a cell; `seen` is the table with its mark, the table, the cell.

    The last thought says what the heading looks like, reads along the headings as far as that one, and then as many
    cells of the row.
    """
    row, column = grid.rows[at[0]], grid.columns[at[1]]
    headings, read = (", ".join(line[: at[1] + 1]) for line in (grid.columns, grid.cells[at[0]]))
    return Draft(
        text=canvas.rng.choice(ASK_NAMED).format(table=name, column=column.lower(), row=row),
        answer=grid.cells[at[0]][at[1]],
        evidence=(seen[2],),
        plan=(Look(thought=seen_at(f"Table {name}", seen[0], canvas.size), target=seen[1]),),
        final_thought=f'Find "{column}". {headings}: column {at[1] + 1}. {row} has {read}.',
    )


def marked_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """One large grid whose rows and columns carry large marks; the cells hold small text.

    Of a row that may not be named no cell is asked: another one is.
    """
    rng, area = canvas.rng, ground.area
    head = canvas.big(rng.uniform(26, 32))
    cell_wide, cell_tall = canvas.big(rng.uniform(46, 66)), canvas.big(rng.uniform(36, 52))
    num_columns = min(rng.randint(3, 8), int((area[2] - area[0] - head * 1.3) / cell_wide))
    num_rows = min(rng.randint(3, 8), int((area[3] - area[1] - head * 1.3) / cell_tall))
    x0 = area[0] + head * 1.3 + rng.uniform(0, area[2] - area[0] - head * 1.3 - num_columns * cell_wide)
    y0 = area[1] + head * 1.3 + rng.uniform(0, area[3] - area[1] - head * 1.3 - num_rows * cell_tall)
    row_marks, column_marks = pick_marks(canvas, num_rows, num_columns, ground)
    box = (x0, y0, x0 + num_columns * cell_wide, y0 + num_rows * cell_tall)
    rule_cells(canvas, box, cell_wide, cell_tall)
    draw_marks(canvas, ground, (row_marks, column_marks), (x0, y0), (cell_wide, cell_tall, head))
    maker = KINDS[rng.choice(("code", "code", "number", "price", "word", "name", "time", "city"))].make
    drafts = []
    for row, row_name in enumerate(row_marks):
        for column, column_name in enumerate(column_marks):
            cell = (x0 + column * cell_wide, y0 + row * cell_tall)
            text = maker(rng)
            middle = (cell[0] + cell_wide / 2, cell[1] + cell_tall / 2)
            ink = canvas.text(middle, text, fill=canvas.ink(canvas.theme.card), align="mm")
            frame = (*cell, cell[0] + cell_wide, cell[1] + cell_tall)
            drafts.append(cell_draft(canvas, (row_name.name, column_name.name, text), (frame, ink)))
    askable = [row_name.askable for row_name in row_marks for _ in column_marks]
    others = cycle(compress(drafts, askable))
    picked = rng.sample(range(len(drafts)), min(len(drafts), 8))
    return [drafts[idx] if askable[idx] else next(others) for idx in picked]


def pick_marks(canvas: Canvas, num_rows: int, num_columns: int, ground: Ground) -> tuple[list[Anchor], list[Anchor]]:
    """Names of rows and columns: letters and numbers, in either order, or icons for the rows."""
    letters = [Anchor(kind="letter", name=sign, form=sign) for sign in "ABCDEFGHJK"]
    numbers = [Anchor(kind="number", name=str(n), form=str(n)) for n in range(1, 11)]
    if canvas.rng.random() < 0.35:
        rows = pick_anchors(canvas, canvas.rng.choice(("icon", "shape")), num_rows, ground.surface)
        return rows, canvas.rng.choice((letters, numbers))[:num_columns]
    if canvas.rng.random() < 0.5:
        return letters[:num_rows], numbers[:num_columns]
    return numbers[:num_rows], letters[:num_columns]


def rule_cells(canvas: Canvas, box: Box, cell_wide: int, cell_tall: int) -> None:
    """Background and lines of the large grid."""
    canvas.card(box, fill=canvas.theme.card)
    for x in range(round(box[0]), round(box[2]) + 1, cell_wide):
        canvas.draw.line((x, box[1], x, box[3]), fill=canvas.theme.line, width=4)
    for y in range(round(box[1]), round(box[3]) + 1, cell_tall):
        canvas.draw.line((box[0], y, box[2], y), fill=canvas.theme.line, width=4)


def draw_marks(
    canvas: Canvas,
    ground: Ground,
    marks: tuple[list[Anchor], list[Anchor]],
    origin: tuple[float, float],
    sizes: tuple[int, int, int],
) -> None:
    """Draw the marks left of the rows and above the columns; `sizes` are cell width, cell height and mark side."""
    (x0, y0), (wide, tall, head) = origin, sizes
    rows, columns = marks
    ink = canvas.ink(ground.surface)
    dress = pick_dress(canvas, rows[0].kind)
    for index, anchor in enumerate(rows):
        y = y0 + (index + 0.5) * tall
        box = (x0 - head * 1.15, y - head / 2, x0 - head * 0.15, y + head / 2)
        if anchor.kind in ("icon", "shape"):
            draw_anchor(canvas, anchor, box, dress)
        else:
            draw_mark(canvas, anchor.form, box, ink, canvas.head_font)
    for index, anchor in enumerate(columns):
        x = x0 + (index + 0.5) * wide
        box = (x - head / 2, y0 - head * 1.15, x + head / 2, y0 - head * 0.15)
        draw_mark(canvas, anchor.form, box, ink, canvas.head_font)


def cell_draft(canvas: Canvas, words: tuple[str, str, str], seen: tuple[Box, Box]) -> Draft:
    """The question about a cell of the large grid."""
    row, column, text = words
    return Draft(
        text=canvas.rng.choice(ASK_GRID).format(row=row, column=column),
        answer=text,
        evidence=(seen[1],),
        plan=(
            Look(
                thought=f"Row {row} and column {column} meet {place_phrase(seen[0], canvas.size)}.",
                target=seen[0],
            ),
        ),
        final_thought=f"The cell says {text}.",
    )


@dataclass(frozen=True, kw_only=True)
class Section:
    """Entries of a directory that share a first letter."""

    letter: str
    entries: tuple[tuple[str, str], ...]
    """Name and value."""


def list_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """A directory: sections under large first letters, a value beside each name."""
    rng = canvas.rng
    canvas.small_px = min(canvas.small_px, 26)
    small, step = canvas.small_px, int(canvas.small_px * rng.uniform(1.4, 1.7))
    kind = KINDS[rng.choice(("code", "number", "price", "time", "date", "number"))]
    sections = make_sections(rng, kind)
    name_wide = max(canvas.measure(name, small)[0] for section in sections for name, _ in section.entries)
    value_wide = max(canvas.measure(value, small)[0] for section in sections for _, value in section.entries)
    head, most = canvas.big(rng.uniform(24, 30)), max(len(section.entries) for section in sections)
    beside = rng.random() < 0.5
    wide, tall = name_wide + value_wide + small * 2, most * step
    block = (wide + head * 1.4, max(tall, head) + small) if beside else (max(wide, head), tall + head * 1.2)
    padded = (block[0] + canvas.big(6), block[1] + canvas.big(6))
    cells = arrange(rng, rng.choice(("grid", "rows")), ground.area, padded, len(sections))
    ink = canvas.ink(ground.surface)
    drafts = []
    for cell, section in zip(cells, sections, strict=False):
        corner = (cell[0], cell[1], cell[0] + head, cell[1] + head)
        mark = draw_mark(canvas, section.letter, corner, ink, canvas.head_font)
        x, y = (cell[0] + head * 1.4, cell[1]) if beside else (cell[0], cell[1] + head * 1.2)
        inks = []
        for index, (name, value) in enumerate(section.entries):
            line = y + (index + 0.5) * step
            canvas.text((x, line), name, fill=ink, align="lm")
            inks.append(canvas.text((x + name_wide + small * 1.5, line), value, fill=ink, align="lm"))
        whole = union((mark, (x, y, x + wide, y + len(section.entries) * step)))
        drafts += [list_draft(canvas, section, index, kind, (whole, box)) for index, box in enumerate(inks)]
    return drafts


def make_sections(rng: random.Random, kind: Kind) -> list[Section]:
    """Up to twelve sections in the order of the alphabet, each with two to four names."""
    pool = short(rng.choice((NAMES, CITIES, PLACES, tuple(word.capitalize() for word in GOODS))))
    by_letter: dict[str, list[str]] = {}
    for word in pool:
        by_letter.setdefault(word[0], []).append(word)
    letters = [letter for letter, words in by_letter.items() if len(words) >= 2]
    most = rng.randint(2, 4)
    sections = []
    for letter in sorted(rng.sample(letters, min(len(letters), rng.randint(5, 12)))):
        names = sorted(rng.sample(by_letter[letter], min(most, len(by_letter[letter]))))
        values = distinct(rng, kind.make, len(names))
        sections.append(Section(letter=letter, entries=tuple(zip(names, values, strict=True))))
    return sections


def list_draft(canvas: Canvas, section: Section, index: int, kind: Kind, seen: tuple[Box, Box]) -> Draft:
    """The question about an entry of the directory."""
    name, value = section.entries[index]
    thought = f"{name} is under {section.letter}, {place_phrase(seen[0], canvas.size)}."
    return Draft(
        text=canvas.rng.choice(ASK_LIST).format(kind=kind.name, row=name),
        answer=value,
        evidence=(seen[1],),
        plan=(Look(thought=thought, target=seen[0]),),
        final_thought=f"{name} has {value}.",
    )
