"""Family `label`: read the small label that belongs to one of many anchors.

One zoom, one reading. The anchor (a coloured shape, an icon, a large letter or number) is seen at first view, its
label is not. Within a picture the relation never changes: labels lie under, above or next to their anchors, or on cards
with several named lines.
"""

import random
from dataclasses import dataclass
from typing import Literal

from foveate.rl.tasks.anchors import MOST, Anchor, draw_anchor, pick_anchors, pick_dress, pick_kind
from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.canvas import Canvas
from foveate.rl.tasks.layout import arrange, pick_layout
from foveate.rl.tasks.oracle import Draft, Look, finish, seen_at, union
from foveate.rl.tasks.palette import NAMED, Color, ink_on, shade
from foveate.rl.tasks.scene import Box, Drawing
from foveate.rl.tasks.setting import Ground, draw_setting, draw_shelves, pick_setting
from foveate.rl.tasks.words import KINDS, Kind, distinct

Relation = Literal["under", "above", "next to"]
FIELDS: dict[str, str] = {
    "Lot": "code", "Code": "code", "Gate": "code", "Room": "number", "Stock": "number", "Weight": "value",
    "Price": "price", "Date": "date", "Time": "time", "Name": "name", "Owner": "name", "City": "city",
}  # fmt: skip
"""Line of a card -> kind of its value."""
LABEL_KINDS = {
    "code": 26, "number": 28, "price": 12, "date": 6, "time": 8, "word": 8, "name": 4, "value": 6, "city": 2,
}  # fmt: skip
ASK_LABEL = (
    "What does the label {rel} {anchor} say?",
    "Read the label {rel} {anchor}.",
    "What is written {rel} {anchor}?",
    "Which {kind} is {rel} {anchor}?",
    "What is the {kind} {rel} {anchor}?",
)
ASK_FIELD = (
    "What {field} does the card with {anchor} show?",
    "What is the {field} on the card with {anchor}?",
    "Read the {field} on the card with {anchor}.",
)


@dataclass(frozen=True, kw_only=True)
class Wear:
    """How the labels of one picture look."""

    relation: Relation
    kind: Kind
    plate: Color | None
    line: Color | None
    bold: bool
    currency: str
    side: int
    """Side of an anchor in px."""


def draw(rng: random.Random, split: Split) -> Drawing:
    """A picture of labelled anchors and questions about some of them."""
    canvas = Canvas(rng, split)
    ground = draw_setting(canvas, pick_setting(rng, split))
    drafts = card_page(canvas, ground) if rng.random() < 0.35 else label_page(canvas, ground)
    return finish(canvas, drafts, "label")


def pick_wear(canvas: Canvas) -> Wear:
    """A look for all labels of a picture."""
    rng = canvas.rng
    kind = KINDS[rng.choices(tuple(LABEL_KINDS), tuple(LABEL_KINDS.values()))[0]]
    plate = None
    if rng.random() < 0.5:
        plate = rng.choice(((255, 255, 255), (250, 244, 214), shade(rng, rng.choice(tuple(NAMED))), canvas.theme.card))
    return Wear(
        relation=rng.choice(("under", "under", "above", "next to")),
        kind=kind,
        plate=plate,
        line=(60, 60, 64) if plate and rng.random() < 0.5 else None,
        bold=rng.random() < 0.35,
        currency=rng.choice(("", "$", "$", "€")) if kind.name == "price" else "",
        side=canvas.big(rng.uniform(28, 40)),
    )


def label_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """Anchors with one label each."""
    rng, wear = canvas.rng, pick_wear(canvas)
    kind = pick_kind(rng)
    count = rng.randint(6, min(30, MOST[kind]))
    texts = [wear.currency + text for text in distinct(rng, wear.kind.make, count)]
    wide = max(canvas.measure(text, canvas.small_px, bold=wear.bold)[0] for text in texts) + canvas.small_px
    tall, gap = int(canvas.small_px * 1.6), canvas.small_px * rng.uniform(0.3, 0.7)
    block: tuple[float, float]
    if wear.relation == "next to":
        block = (wear.side + gap + wide, max(wear.side, tall))
    else:
        block = (max(wear.side, wide), wear.side + gap + tall)
    padded = (block[0] + canvas.big(5), block[1] + canvas.big(6))
    layout = pick_layout(rng, canvas.split)
    cells = arrange(rng, layout, ground.area, padded, count)
    if layout == "rows" and wear.relation != "next to" and rng.random() < 0.5:
        draw_shelves(canvas, ground, cells)
    anchors, dress = pick_anchors(canvas, kind, len(cells), ground.surface), pick_dress(canvas, kind)
    drafts = []
    for cell, anchor, text in zip(cells, anchors, texts, strict=False):
        middle = (cell[0] + cell[2]) / 2
        x, y = (cell[0] if wear.relation == "next to" else middle - wear.side / 2), cell[1]
        y += tall + gap if wear.relation == "above" else 0
        box = (x, y, x + wear.side, y + wear.side)
        draw_anchor(canvas, anchor, box, dress)
        ink = draw_label(canvas, ground, wear, box, text, (wide, tall, gap))
        if anchor.askable:
            drafts.append(label_draft(canvas, wear, anchor, union((box, ink)), text, ink))
    return rng.sample(drafts, min(len(drafts), rng.randint(2, 5)))


def draw_label(
    canvas: Canvas, ground: Ground, wear: Wear, box: Box, text: str, room: tuple[float, float, float]
) -> Box:
    """Write a label at its anchor's box; `room` is the width and height of a label and the gap. Returns the ink box."""
    wide, tall, gap = room
    if wear.relation == "next to":
        x0, y0 = box[2] + gap, (box[1] + box[3] - tall) / 2
        at, align = (x0 + canvas.small_px / 2, y0 + tall / 2), "lm"
    else:
        x0 = (box[0] + box[2] - wide) / 2
        y0 = box[3] + gap if wear.relation == "under" else box[1] - gap - tall
        at, align = (x0 + wide / 2, y0 + tall / 2), "mm"
    fill = canvas.ink(ground.surface)
    if wear.plate:
        canvas.card((x0, y0, x0 + wide, y0 + tall), fill=wear.plate, radius=int(tall * 0.2), line=wear.line)
        fill = ink_on(wear.plate)
    return canvas.text(at, text, bold=wear.bold, fill=fill, align=align)  # type: ignore[arg-type]


def label_draft(canvas: Canvas, wear: Wear, anchor: Anchor, target: Box, text: str, ink: Box) -> Draft:
    """The question about one label."""
    ask = canvas.rng.choice(ASK_LABEL).format(rel=wear.relation, anchor=anchor.phrase, kind=wear.kind.name)
    return Draft(
        text=ask,
        answer=text,
        accept=(text[1:],) if wear.currency else (),
        evidence=(ink,),
        plan=(Look(thought=seen_at(anchor.subject, target, canvas.size), target=target),),
        final_thought=f"The label says {text}.",
    )


def card_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """Cards with an anchor and two or three named lines each."""
    rng, small = canvas.rng, canvas.small_px
    fields = rng.sample(tuple(FIELDS), rng.randint(2, 3))
    side, step = canvas.big(rng.uniform(28, 36)), int(small * rng.uniform(1.35, 1.7))
    pad, on_top = int(small * 0.8), rng.random() < 0.5
    lines_wide = int(small * 9.5)
    block = (
        (max(side, lines_wide) + 2 * pad, side + step * len(fields) + 3 * pad)
        if on_top
        else (side + lines_wide + 3 * pad, max(side, step * len(fields)) + 2 * pad)
    )
    padded = (block[0] + canvas.big(4), block[1] + canvas.big(4))
    cells = arrange(rng, pick_layout(rng, canvas.split), ground.area, padded, rng.randint(6, 23))
    kind = pick_kind(rng)
    fill = canvas.theme.card
    anchors, dress = pick_anchors(canvas, kind, len(cells), fill), pick_dress(canvas, kind)
    line, radius = rng.choice((None, canvas.theme.line)), rng.choice((0, 8, 18))
    drafts = []
    for cell, anchor in zip(cells, anchors, strict=True):
        card = (cell[0], cell[1], cell[0] + block[0], cell[1] + block[1])
        canvas.card(card, fill=fill, radius=radius, line=line)
        x = card[0] + ((block[0] - side) / 2 if on_top else pad)
        y = card[1] + (pad if on_top else (block[1] - side) / 2)
        draw_anchor(canvas, anchor, (x, y, x + side, y + side), dress)
        start = (card[0] + pad, y + side + pad) if on_top else (x + side + pad, card[1] + pad)
        asked = rng.choice(fields)
        for index, field in enumerate(fields):
            value = KINDS[FIELDS[field]].make(rng)
            at = (start[0], start[1] + index * step)
            ink = card_line(canvas, at, field, value)
            if anchor.askable and field == asked:
                drafts.append(field_draft(canvas, anchor, card, field, value, ink))
    return rng.sample(drafts, min(len(drafts), rng.randint(2, 5)))


def card_line(canvas: Canvas, at: tuple[float, float], field: str, value: str) -> Box:
    """Write "Price 4.50" on one line; returns the box of the value."""
    ink = canvas.ink(canvas.theme.card)
    name = canvas.text(at, field, fill=ink if canvas.theme.dark else canvas.theme.muted)
    return canvas.text((name[2] + canvas.small_px * 0.6, at[1]), value, bold=True, fill=ink)


def field_draft(canvas: Canvas, anchor: Anchor, card: Box, field: str, value: str, ink: Box) -> Draft:
    """The question about one line of a card."""
    ask = canvas.rng.choice(ASK_FIELD).format(field=field.lower(), anchor=anchor.phrase)
    return Draft(
        text=ask,
        answer=value,
        evidence=(ink,),
        plan=(Look(thought=seen_at(anchor.subject, card, canvas.size), target=card),),
        final_thought=f"The {field.lower()} is {value}.",
    )
