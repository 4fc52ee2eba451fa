"""Family `compare`: look in two different places and put together what was seen.

Small things in two boxes are counted and added, or two small numbers are subtracted or compared. The two places are
far apart in the picture, each gets its own zoom, and one line of Python does the arithmetic. Counts are paired so
that every sum from 2 to 18 is about equally likely, and the things lie about one visual token apart. Counting is said
aloud, a digit for each thing in the order of rows, so that each digit has one thing to look at.
"""

import random
from dataclasses import dataclass

from foveate.rl.tasks.anchors import Anchor, AnchorKind, draw_anchor, draw_mark, pick_anchors, pick_dress, pick_kind
from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.canvas import Canvas
from foveate.rl.tasks.chart import gauge
from foveate.rl.tasks.layout import arrange, pick_layout
from foveate.rl.tasks.oracle import Compute, Draft, Look, finish, run_code, seen_at, union
from foveate.rl.tasks.palette import ink_on, shade, visible_names
from foveate.rl.tasks.scene import Box, Drawing, Glyph
from foveate.rl.tasks.setting import Ground, draw_setting, pick_setting
from foveate.rl.tasks.words import LETTERS

COUNTED = {"dots": "circle", "squares": "square", "triangles": "triangle", "stars": "star", "crosses": "cross"}
COUNTED_GLYPH = "*"
"""Small things are labelled like characters, all with this one: to count is to read them."""
DIGITS = "123456789"
ASK_COUNT = (
    "How many {things} do box {a} and box {b} have together?",
    "Count the {things} in box {a} and in box {b}. How many are there in total?",
    "What is the number of {things} in boxes {a} and {b} together?",
)
ASK_MORE = (
    "How much larger is the number {rel} {a} than the number {rel} {b}?",
    "What is the number {rel} {a} minus the number {rel} {b}?",
)
ASK_SUM = ("What is the sum of the numbers {rel} {a} and {b}?", "Add the numbers {rel} {a} and {b}.")
ASK_MAX = (
    "What is the larger of the numbers {rel} {a} and {b}?",
    "Compare the numbers {rel} {a} and {b}. What is the larger one?",
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place with one number to be read or counted."""

    subject: str
    """As the start of a sentence: "Box C", "The red star"."""
    phrase: str
    value: str
    target: Box
    ink: Box


def draw(rng: random.Random, split: Split) -> Drawing:
    """A page of boxes with small things, or of anchors with numbers, and questions about pairs."""
    canvas = Canvas(rng, split)
    page = rng.choices((count_page, number_page, gauge_page), (40, 35, 25))[0]
    drafts = page(canvas, draw_setting(canvas, pick_setting(rng, split)))
    return finish(canvas, drafts, "compare")


def pairs(canvas: Canvas, places: list[Place], count: int, even_sums: bool = False) -> list[tuple[Place, Place]]:
    """Pairs of places that lie apart from each other; with `even_sums` sums of small counts are spread evenly."""
    reach = 0.25 * max(canvas.size)
    far = [
        (a, b)
        for a in places
        for b in places
        if a is not b and abs(a.target[0] - b.target[0]) + abs(a.target[1] - b.target[1]) > reach
    ]
    far = far or [(a, b) for a in places for b in places if a is not b]
    if even_sums:
        ways = {pair: 9 - abs(10 - int(pair[0].value) - int(pair[1].value)) for pair in far}
        far.sort(key=lambda pair: canvas.rng.random() ** ways[pair], reverse=True)
        return far[:count]
    return canvas.rng.sample(far, min(count, len(far)))


def count_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """Boxes with a large letter and one to nine small things each."""
    rng = canvas.rng
    dot = int(max(7, min(16, 3.3 * canvas.view_scale)) * rng.uniform(0.85, 1.0))
    pitch, head = max(30, int(dot * rng.uniform(2.2, 2.8))), canvas.big(rng.uniform(24, 32))
    columns, rows = rng.choice(((4, 4), (5, 4), (5, 3), (6, 3)))
    field = (columns * pitch, rows * pitch)
    beside = rng.random() < 0.4
    pad = pitch * 0.3
    block = (
        (head * 1.2 + field[0] + 2 * pad, max(head, field[1]) + 2 * pad)
        if beside
        else (max(head, field[0]) + 2 * pad, head * 1.15 + field[1] + 2 * pad)
    )
    padded = (block[0] + canvas.big(5), block[1] + canvas.big(5))
    cells = arrange(rng, pick_layout(rng, canvas.split), ground.area, padded, rng.randint(4, 12))
    letters, fill = rng.sample(LETTERS, len(cells)), canvas.theme.card
    things = rng.choice(("dots", "dots", *COUNTED))
    color = shade(rng, rng.choice(visible_names(fill)))
    counts = [rng.randint(1, 9) for _ in cells]
    places = []
    for cell, letter, number in zip(cells, letters, counts, strict=True):
        card = (cell[0], cell[1], cell[0] + block[0], cell[1] + block[1])
        canvas.card(card, fill=fill, line=canvas.theme.line, radius=rng.choice((0, 10)), width=3)
        x, y = (card[0] + pad + head * 1.2, card[1] + pad) if beside else (card[0] + pad, card[1] + pad + head * 1.15)
        mark = (card[0] + pad, card[1] + pad, card[0] + pad + head, card[1] + pad + head)
        draw_mark(canvas, letter, mark, canvas.ink(fill), canvas.head_font)
        spots = rng.sample([(j, i) for i in range(columns) for j in range(rows)], number)
        for j, i in sorted(spots):
            left = x + i * pitch + rng.uniform(0.1, 0.9) * (pitch - dot)
            top = y + j * pitch + rng.uniform(0.1, 0.9) * (pitch - dot)
            canvas.shape(COUNTED[things], (left, top, left + dot, top + dot), color)
            canvas.glyphs.append(Glyph(COUNTED_GLYPH, (left, top, left + dot, top + dot)))
        inside = (x, y, x + field[0], y + field[1])
        places.append(Place(subject=f"Box {letter}", phrase=letter, value=str(number), target=card, ink=inside))
    return [count_draft(canvas, things, a, b) for a, b in pairs(canvas, places, rng.randint(2, 4), True)]


def count_draft(canvas: Canvas, things: str, a: Place, b: Place) -> Draft:
    """How many things two boxes have together."""
    code = f"print({a.value}+{b.value})"
    return two_looks(
        canvas,
        canvas.rng.choice(ASK_COUNT).format(things=things, a=a.phrase, b=b.phrase),
        (a, b),
        (counted(a), f"{counted(b)} I add them."),
        code,
    )


def counted(place: Place) -> str:
    """What is said while counting: each number as its thing is looked at, row by row, then the last one again."""
    return f"{counting(int(place.value))} {place.subject} has {place.value}."


def counting(number: int) -> str:
    """The counting itself, of one to nine things."""
    return f"I count {DIGITS[:number]}."


def two_looks(canvas: Canvas, ask: str, places: tuple[Place, Place], said: tuple[str, str], code: str) -> Draft:
    """Zoom, zoom, compute: `said` is what was read in the first and in the second place."""
    a, b = places
    answer = run_code(code)
    return Draft(
        text=ask,
        answer=answer,
        evidence=(a.ink, b.ink),
        plan=(
            Look(thought=seen_at(a.subject, a.target, canvas.size), target=a.target),
            Look(thought=f"{said[0]} {seen_at(b.subject, b.target, canvas.size)}", target=b.target),
            Compute(thought=said[1], code=code),
        ),
        final_thought=f"It is {answer}.",
    )


def number_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """Anchors with a number under or above each."""
    rng, small = canvas.rng, canvas.small_px
    side, tall = canvas.big(rng.uniform(28, 38)), int(small * 1.7)
    relation = rng.choice(("under", "under", "above"))
    low, high = rng.choice(((10, 99), (100, 999), (100, 999), (1000, 9999)))
    block = (max(side, small * 4) + canvas.big(5), side + tall * 1.2 + canvas.big(6))
    kind = pick_kind(rng)
    cells = arrange(rng, pick_layout(rng, canvas.split), ground.area, block, rng.randint(6, 20))
    anchors, dress = pick_anchors(canvas, kind, len(cells), ground.surface), pick_dress(canvas, kind)
    values = rng.sample(range(low, high + 1), len(cells))
    plate = rng.random() < 0.5
    places = []
    for cell, anchor, value in zip(cells, anchors, values, strict=True):
        middle = (cell[0] + cell[2]) / 2
        y = cell[1] + (tall * 1.2 if relation == "above" else 0)
        box = (middle - side / 2, y, middle + side / 2, y + side)
        draw_anchor(canvas, anchor, box, dress)
        line = y - tall * 0.65 if relation == "above" else y + side + tall * 0.65
        if plate:
            half_x, half_y = small * 1.8, tall / 2
            behind = (middle - half_x, line - half_y, middle + half_x, line + half_y)
            canvas.card(behind, fill=(255, 255, 255), radius=6)
        ink = canvas.text((middle, line), str(value), bold=True, align="mm",
                          fill=(20, 20, 24) if plate else canvas.ink(ground.surface))  # fmt: skip
        if anchor.askable:
            places.append(place_of(anchor, str(value), union((box, ink)), ink))
    return number_drafts(canvas, places, relation)


def place_of(anchor: Anchor, value: str, target: Box, ink: Box) -> Place:
    """The place of an anchor with a number."""
    return Place(subject=anchor.subject, phrase=anchor.phrase, value=value, target=target, ink=ink)


def number_drafts(canvas: Canvas, places: list[Place], relation: str) -> list[Draft]:
    """Differences, sums and maxima of two numbers."""
    drafts = []
    for pair in pairs(canvas, places, canvas.rng.randint(2, 4)):
        task = canvas.rng.choices(("more", "sum", "max"), (4, 3, 2))[0]
        a, b = sorted(pair, key=lambda place: -int(place.value)) if task == "more" else pair
        asks, code, said = {
            "more": (ASK_MORE, f"print({a.value}-{b.value})", "I subtract."),
            "sum": (ASK_SUM, f"print({a.value}+{b.value})", "I add them."),
            "max": (ASK_MAX, f"print(max({a.value},{b.value}))", "I take the larger."),
        }[task]
        ask = canvas.rng.choice(asks).format(rel=relation, a=a.phrase, b=b.phrase)
        drafts.append(two_looks(canvas, ask, (a, b), (f"It is {a.value}.", f"It is {b.value}. {said}"), code))
    return drafts


def gauge_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """Dials with a printed number in the middle and a large mark above."""
    rng = canvas.rng
    kind: AnchorKind = rng.choice(("letter", "letter", "number", "shape", "icon"))
    head, dial = canvas.big(rng.uniform(24, 32)), int(max(canvas.small_px * 5.2, canvas.big(26)))
    pad = canvas.small_px * 0.6
    block = (max(head, dial) + 2 * pad, head + dial + 3 * pad)
    padded = (block[0] + canvas.big(5), block[1] + canvas.big(5))
    cells = arrange(rng, pick_layout(rng, canvas.split), ground.area, padded, rng.randint(4, 14))
    fill, high = canvas.theme.card, rng.choice((99, 500, 999))
    anchors, dress = pick_anchors(canvas, kind, len(cells), fill), pick_dress(canvas, kind)
    colors = visible_names(fill)
    color = shade(rng, rng.choice(colors))
    values = rng.sample(range(10, high + 1), len(cells))
    places = []
    for cell, anchor, value in zip(cells, anchors, values, strict=True):
        card = (cell[0], cell[1], cell[0] + block[0], cell[1] + block[1])
        canvas.card(card, fill=fill, line=canvas.theme.line, radius=rng.choice((0, 12)))
        middle = (card[0] + card[2]) / 2
        draw_anchor(canvas, anchor, (middle - head / 2, card[1] + pad, middle + head / 2, card[1] + pad + head), dress)
        top = card[1] + head + 2 * pad
        gauge(canvas, (middle - dial / 2, top, middle + dial / 2, top + dial), color, value / high)
        ink = canvas.text((middle, top + dial * 0.52), str(value), bold=True, fill=ink_on(fill), align="mm")
        if anchor.askable:
            places.append(place_of(anchor, str(value), card, ink))
    return number_drafts(canvas, places, "under")
