"""Family `total`: read several numbers in one place and compute with them.

Receipts and small charts carry a large letter, number or shape; one zoom shows all their numbers, one line of Python
adds, subtracts or compares them. All names with their numbers are read first, in words. Then what is asked for is
said once more with its numbers, in the order in which the code takes them: code that was to pick a number by a name
further up took a neighbour's (docs/log.md).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from foveate.rl.tasks.anchors import Anchor, AnchorKind, Dress, draw_anchor, pick_anchors, pick_dress
from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.canvas import Canvas
from foveate.rl.tasks.chart import draw_chart, pick_chart
from foveate.rl.tasks.layout import arrange
from foveate.rl.tasks.oracle import Compute, Draft, Look, finish, run_code, seen_at
from foveate.rl.tasks.palette import Color
from foveate.rl.tasks.scene import Box, Drawing
from foveate.rl.tasks.setting import Ground, draw_setting, pick_setting
from foveate.rl.tasks.words import CITIES, GOODS, MONTHS, NAMES, PLACES, date, price, time

ASK = {
    "sum": (
        "What is the sum of all {things} {where}?", "What is the total of the {things} {where}?",
        "Add up all {things} {where}.", "What do all {things} {where} add up to?",
    ),
    "pair": (
        "What is the sum of {a} and {b} {where}?", "Add {a} and {b} {where}.",
        "How much are {a} and {b} together {where}?",
    ),
    "difference": ("How much more is {a} than {b} {where}?", "What is the difference between {a} and {b} {where}?"),
    "max": ("What is the highest of the {things} {where}?", "What is the largest of all {things} {where}?"),
    "range": ("What is the highest minus the lowest of the {things} {where}?",),
}  # fmt: skip
LARGEST_IN_CHART = 26
"""Font size at which the values of neighbouring columns stay apart."""
THOUGHTS = {
    "sum": "I add all {things}.",
    "pair": "{a} {a_value} plus {b} {b_value}.",
    "difference": "{a} {a_value} minus {b} {b_value}.",
    "max": "I take the largest.",
    "range": "I subtract the lowest from the highest.",
}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Numbers with names in one place of the picture."""

    anchor: Anchor
    noun: str
    """What the place is: "receipt" or "chart"."""
    things: str
    """What the numbers are: "prices" or "values"."""
    names: tuple[str, ...]
    values: tuple[str, ...]
    inks: tuple[Box, ...]
    """Box of each number."""
    whole: Box
    lines: Box
    """The part with names and numbers: without the mark, so that a crop shows it larger."""

    @property
    def named(self) -> str:
        """The place as a sentence speaks of it: "receipt B" or "the receipt with the red star"."""
        if self.anchor.kind in ("letter", "number"):
            return f"{self.noun} {self.anchor.form}"
        return f"the {self.noun} with {self.anchor.phrase}"

    @property
    def read(self) -> str:
        """Every name with its number, as they are read."""
        return ", ".join(f"{name} {value}" for name, value in zip(self.names, self.values, strict=True))


def draw(rng: random.Random, split: Split) -> Drawing:
    """A page of receipts or charts with questions."""
    canvas = Canvas(rng, split)
    page = receipt_page if rng.random() < 0.5 else chart_page
    listings = page(canvas, draw_setting(canvas, pick_setting(rng, split)))
    rng.shuffle(listings)
    drafts = [sum_draft(canvas, listings[index % len(listings)]) for index in range(rng.randint(2, 4))]
    return finish(canvas, drafts, "total")


def pick_names(canvas: Canvas, count: int, surface: Color) -> tuple[list[Anchor], Dress]:
    """Anchors that name the places of a page."""
    kind: AnchorKind = canvas.rng.choices(("letter", "number", "shape", "icon"), (5, 2, 2, 2))[0]
    anchors = [anchor for anchor in pick_anchors(canvas, kind, count + 3, surface) if anchor.askable][:count]
    return anchors, pick_dress(canvas, kind)


def receipt_page(canvas: Canvas, ground: Ground) -> list[Listing]:
    """Receipts of one width, each with its mark, a few lines of prices and some small print."""
    rng, small = canvas.rng, canvas.small_px
    head, step = canvas.big(rng.uniform(24, 32)), int(small * rng.uniform(1.4, 1.65))
    most, wide = rng.randint(3, 4), int(small * rng.uniform(11, 14))
    tall = head + small * 3.2 + step * most + small * 3.4
    paper: Color = rng.choice(((255, 255, 255), (252, 250, 240), (246, 246, 246), (250, 244, 226)))
    padded = (wide + canvas.big(4), tall + canvas.big(4))
    cells = arrange(rng, rng.choice(("grid", "scatter")), ground.area, padded, rng.randint(2, 7))
    anchors, dress = pick_names(canvas, len(cells), paper)
    currency = rng.choice(("", "", "$", "€"))
    listings = []
    for cell, anchor in zip(cells, anchors, strict=True):
        count = rng.randint(3, most)
        paper_box = (cell[0], cell[1], cell[0] + wide, cell[1] + tall - (most - count) * step)
        listings.append(draw_receipt(canvas, paper_box, anchor, dress, (count, step, head, paper, currency)))
    return listings


def draw_receipt(
    canvas: Canvas, box: Box, anchor: Anchor, dress: Dress, form: tuple[int, int, int, Color, str]
) -> Listing:
    """One receipt; `form` is the number of lines, their height, the mark's side, the paper and the currency sign."""
    rng, small = canvas.rng, canvas.small_px
    count, step, head, paper, currency = form
    ink: Color = (26, 26, 30)
    canvas.card((box[0] + 5, box[1] + 6, box[2] + 5, box[3] + 6), fill=(150, 150, 150))
    canvas.card(box, fill=paper)
    center, pad = (box[0] + box[2]) / 2, small * 0.9
    top = box[1] + small * 0.6
    draw_anchor(canvas, anchor, (center - head / 2, top, center + head / 2, top + head), dress)
    y, print_px, faint = top + small * 0.6 + head, max(12, int(small * 0.8)), (110, 110, 110)
    canvas.text((center, y), f"{rng.choice(CITIES)} {time(rng)}", size=print_px, fill=faint, align="mt")
    y += small * 1.4
    canvas.draw.line((box[0] + pad, y, box[2] - pad, y), fill=(150, 150, 150), width=2)
    names, values, inks = rng.sample(GOODS, count), [price(rng) for _ in range(count)], []
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        line = y + (index + 0.6) * step
        canvas.text((box[0] + pad, line), name, fill=ink, align="lm")
        inks.append(canvas.text((box[2] - pad, line), currency + value, fill=ink, align="rm"))
    lines = (box[0] + pad, y, box[2] - pad, y + step * count)
    y += step * count + small * 0.4
    canvas.draw.line((box[0] + pad, y, box[2] - pad, y), fill=(150, 150, 150), width=2)
    thanks = rng.choice(("thank you", f"card {rng.randint(1000, 9999)}", date(rng), "see you soon", "no refunds"))
    canvas.text((center, y + small * 0.5), thanks, size=print_px, fill=faint, align="mt")
    return Listing(anchor=anchor, noun="receipt", things="prices", names=tuple(names), values=tuple(values),
                   inks=tuple(inks), whole=box, lines=lines)  # fmt: skip


def chart_page(canvas: Canvas, ground: Ground) -> list[Listing]:
    """Cards with a mark and a chart each, all of one kind of chart."""
    canvas.small_px = min(canvas.small_px, LARGEST_IN_CHART)
    rng, small = canvas.rng, canvas.small_px
    kind = pick_chart(rng, canvas.split)
    count = rng.randint(3, 4)
    head = canvas.big(rng.uniform(24, 32))
    wide = int(min(500, max(count * small * 3.9, 300, 17 * small if kind == "pie" else 0)))
    inner_tall = max(small * (count * 1.8 + 1), rng.uniform(0.5, 0.8) * wide)
    tall = int(min(500, head + inner_tall + small * 2))
    padded = (wide + canvas.big(4), tall + canvas.big(4))
    cells = arrange(rng, rng.choice(("grid", "grid", "scatter")), ground.area, padded, rng.randint(2, 8))
    anchors, dress = pick_names(canvas, len(cells), canvas.theme.card)
    pool = rng.choice((MONTHS, *map(short_enough, (CITIES, NAMES, GOODS, PLACES))))
    low, high, digits = rng.choice(((3, 99, 0), (20, 999, 0), (1, 60, 1)))
    listings = []
    for cell, anchor in zip(cells, anchors, strict=True):
        card = (cell[0], cell[1], cell[0] + wide, cell[1] + tall)
        canvas.card(card, line=canvas.theme.line, radius=rng.choice((0, 12)))
        x, y = card[0] + small, card[1] + small * 0.5
        draw_anchor(canvas, anchor, (x, y, x + head, y + head), dress)
        names, values = chart_names(rng, pool, count), [f"{rng.uniform(low, high):.{digits}f}" for _ in range(count)]
        inner = (card[0] + small, card[1] + small * 0.8 + head, card[2] - small, card[3] - small * 0.6)
        inks = draw_chart(canvas, kind, inner, names, values)
        listings.append(Listing(anchor=anchor, noun="chart", things="values", names=tuple(names), values=tuple(values),
                                inks=tuple(inks), whole=card, lines=inner))  # fmt: skip
    return listings


def short_enough(words: Sequence[str]) -> tuple[str, ...]:
    """The words that fit under a column."""
    return tuple(word for word in words if len(word) <= 5)


def chart_names(rng: random.Random, pool: tuple[str, ...], count: int) -> list[str]:
    """Names of a chart's marks; months stay in order."""
    if pool == MONTHS:
        start = rng.randrange(12 - count + 1)
        return list(MONTHS[start : start + count])
    return rng.sample(pool, count)


def sum_draft(canvas: Canvas, listing: Listing) -> Draft:
    """A question that computes with the numbers of one place."""
    rng = canvas.rng
    task = rng.choices(tuple(ASK), (4, 3, 2, 2, 1))[0]
    values = [float(value) for value in listing.values]
    a, b = rng.sample(range(len(values)), 2)
    if task == "difference" and values[a] < values[b]:
        a, b = b, a
    if task == "pair" and a > b:
        a, b = b, a
    code = code_of(task, listing.values, listing.values[a], listing.values[b])
    used = (a, b) if task in ("pair", "difference") else tuple(range(len(values)))
    words = {"things": listing.things, "where": f"{'in' if listing.noun == 'chart' else 'on'} {listing.named}",
             "a": listing.names[a], "b": listing.names[b],
             "a_value": listing.values[a], "b_value": listing.values[b]}  # fmt: skip
    answer = run_code(code)
    subject = listing.named[0].upper() + listing.named[1:]
    return Draft(
        text=rng.choice(ASK[task]).format(**words),
        answer=answer,
        accept=spellings(answer, decimals=listing.things == "prices"),
        evidence=tuple(listing.inks[index] for index in used),
        plan=(
            Look(thought=seen_at(subject, listing.whole, canvas.size), target=listing.lines),
            Compute(thought=f"{listing.read}. {THOUGHTS[task].format(**words)}", code=code),
        ),
        final_thought=f"It is {answer}.",
    )


def code_of(task: str, values: Sequence[str], a: str, b: str) -> str:
    """The line of Python: rounding only where there are decimals."""
    listed = ",".join(values)
    expression = {
        "sum": "+".join(values), "pair": f"{a}+{b}", "difference": f"{a}-{b}", "max": f"max({listed})",
        "range": f"max({listed})-min({listed})",
    }[task]  # fmt: skip
    if task == "max" or "." not in listed:
        return f"print({expression})"
    return f"print(round({expression},2))"


def spellings(answer: str, *, decimals: bool) -> tuple[str, ...]:
    """Other ways to write a number: two decimals for money, no decimals for whole values."""
    other = {f"{float(answer):.2f}"} if decimals else set()
    if "." in answer:
        other.add(f"{float(answer):g}" if len(answer) < 7 else answer)
    return tuple(sorted(other - {answer}))
