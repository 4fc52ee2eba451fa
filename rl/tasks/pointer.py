"""Family `pointer`: the first thing read says where to look next.

Three pages: a note under an anchor that names a box ("see box C"), a marker's number that the legend explains, and a
small anchor inside a panel, which needs a zoom into a zoom. Always two zooms and one reading at the end.
"""

import random

from foveate.rl.tasks.anchors import Anchor, AnchorKind, draw_anchor, draw_mark, pick_anchors, pick_dress
from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.canvas import Canvas, picture_size
from foveate.rl.tasks.layout import arrange, pick_layout
from foveate.rl.tasks.oracle import Draft, Look, finish, seen_at, union
from foveate.rl.tasks.palette import Color, ink_on, shade, visible_names
from foveate.rl.tasks.scene import Box, Drawing
from foveate.rl.tasks.setting import Ground, draw_setting, pick_setting
from foveate.rl.tasks.words import KINDS, LETTERS, PLACES, Kind, code, distinct, made_up, name, number, word

NOTES = ("see box {}", "go to box {}", "look in box {}", "box {}", "now in box {}")
ASK_NOTE = (
    "Follow the note under {anchor}. What is the {kind} in the box?",
    "The note under {anchor} names a box. What is the {kind} in that box?",
    "Which {kind} is in the box that the note under {anchor} names?",
)
ASK_LEGEND = (
    "Which name does the legend give for the number under {anchor}?",
    "What does the legend say for the number under {anchor}?",
    "Look up the number under {anchor} in the legend. Which name is it?",
)
ASK_PANEL = (
    "In panel {panel}, what does the label under {anchor} say?",
    "Read the label under {anchor} in panel {panel}.",
    "What is written under {anchor} in panel {panel}?",
)
BOX_KINDS = ("code", "code", "number", "price", "word", "time", "name")


def draw(rng: random.Random, split: Split) -> Drawing:
    """A page of notes, a legend or a set of panels, with questions."""
    page = rng.choices((note_page, legend_page, panel_page), (4, 3, 3))[0]
    canvas = Canvas(rng, split, picture_size(rng, least=2.2e6) if page is panel_page else None)
    setting = "map" if page is legend_page and rng.random() < 0.5 else pick_setting(rng, split)
    drafts = page(canvas, draw_setting(canvas, setting))
    return finish(canvas, rng.sample(drafts, min(len(drafts), rng.randint(2, 4))), "pointer")


def note_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """Anchors with notes that name boxes, and the boxes, mixed on one page."""
    rng, small = canvas.rng, canvas.small_px
    side, tall = canvas.big(rng.uniform(28, 36)), int(small * 1.6)
    kind = KINDS[rng.choice(BOX_KINDS)]
    block = (max(side, int(small * 7.2)) + canvas.big(5), side + 1.4 * tall + canvas.big(6))
    cells = arrange(rng, pick_layout(rng, canvas.split), ground.area, block, rng.randint(8, 22))
    rng.shuffle(cells)
    num_boxes = max(3, len(cells) // 2)
    boxes, places = cells[:num_boxes], cells[num_boxes:]
    letters, values = rng.sample(LETTERS, num_boxes), distinct(rng, kind.make, num_boxes)
    fill = shade(rng, rng.choice(visible_names(ground.surface))) if rng.random() < 0.3 else canvas.theme.card
    inks = [
        draw_box(canvas, cell, letter, value, fill) for cell, letter, value in zip(boxes, letters, values, strict=True)
    ]
    anchor_kind: AnchorKind = rng.choice(("shape", "shape", "icon"))
    anchors = pick_anchors(canvas, anchor_kind, len(places), ground.surface)
    dress, wording, drafts = pick_dress(canvas, anchor_kind), rng.choice(NOTES), []
    for cell, anchor in zip(places, anchors, strict=True):
        index, middle = rng.randrange(num_boxes), (cell[0] + cell[2]) / 2
        spot = (middle - side / 2, cell[1], middle + side / 2, cell[1] + side)
        draw_anchor(canvas, anchor, spot, dress)
        text = wording.format(letters[index])
        note = canvas.text((middle, spot[3] + tall * 0.8), text, fill=canvas.ink(ground.surface), align="mm")
        if anchor.askable:
            seen = (union((spot, note)), note, boxes[index], inks[index])
            drafts.append(note_draft(canvas, anchor, kind, (letters[index], values[index]), seen))
    return drafts


def draw_box(canvas: Canvas, cell: Box, letter: str, value: str, fill: Color) -> Box:
    """A box with its large letter and its small text; returns the box of the text."""
    pad = canvas.big(2)
    card = (cell[0] + pad, cell[1], cell[2] - pad, cell[3] - pad)
    canvas.card(card, fill=fill, radius=canvas.rng.choice((0, 10)), line=ink_on(fill), width=3)
    tall = int(canvas.small_px * 1.6)
    draw_mark(canvas, letter, (card[0], card[1] + pad, card[2], card[3] - tall - pad), ink_on(fill), canvas.head_font)
    at = ((card[0] + card[2]) / 2, card[3] - tall * 0.75)
    return canvas.text(at, value, bold=True, fill=ink_on(fill), align="mm")


def note_draft(
    canvas: Canvas, anchor: Anchor, kind: Kind, aim: tuple[str, str], seen: tuple[Box, Box, Box, Box]
) -> Draft:
    """The question about a note; `aim` is the box's letter and text, `seen` anchor with note, note, box, its text."""
    letter, value = aim
    target, note, box, ink = seen
    second = f"The note says box {letter}. {seen_at(f'Box {letter}', box, canvas.size)}"
    return Draft(
        text=canvas.rng.choice(ASK_NOTE).format(anchor=anchor.phrase, kind=kind.name),
        answer=value,
        evidence=(note, ink),
        plan=(
            Look(thought=seen_at(anchor.subject, target, canvas.size), target=target),
            Look(thought=second, target=box),
        ),
        final_thought=f"Box {letter} says {value}.",
    )


def split_area(canvas: Canvas, area: Box, width: float, height: float) -> tuple[Box, Box]:
    """Cut room for a legend of a given size from an area; returns (legend, rest). Top and bottom occur only in test."""
    x0, y0, x1, y1 = area
    sides = ("left", "right") if canvas.split != "test" else ("left", "right", "top", "bottom")
    side = canvas.rng.choice(sides)
    gap = canvas.margin / 2
    if side in ("left", "right"):
        top = canvas.rng.uniform(y0, max(y0, y1 - height))
        left = x0 if side == "left" else x1 - width
        rest = (x0 + width + gap, y0, x1, y1) if side == "left" else (x0, y0, x1 - width - gap, y1)
    else:
        left = canvas.rng.uniform(x0, max(x0, x1 - width))
        top = y0 if side == "top" else y1 - height
        rest = (x0, y0 + height + gap, x1, y1) if side == "top" else (x0, y0, x1, y1 - height - gap)
    return (left, top, left + width, top + height), rest


def legend_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """Anchors with a small number each, and a legend that gives the numbers names."""
    rng = canvas.rng
    small = canvas.small_px = min(canvas.small_px, 24)
    step, title = int(small * rng.uniform(1.35, 1.6)), max(int(small * 1.6), canvas.big(9))
    count = rng.randint(6, max(6, min(14, int((430 - title) / step) - 1)))
    pool = rng.choice((PLACES, None))
    names = rng.sample(PLACES, count) if pool else distinct(rng, rng.choice((word, name, made_up, code)), count)
    wide = max(canvas.measure(text, small)[0] for text in names) + small * 4
    wide = max(wide, canvas.measure("Legend", title, bold=True, family=canvas.head_font)[0] + small * 2)
    legend, rest = split_area(canvas, ground.area, wide, title * 1.5 + step * (count + 0.6))
    lines = draw_legend(canvas, legend, names, title, step)
    side, tall = canvas.big(rng.uniform(28, 38)), int(small * 1.6)
    block = (side + canvas.big(6), side + tall + canvas.big(6))
    cells = arrange(rng, pick_layout(rng, canvas.split), rest, block, count)
    kind: AnchorKind = rng.choice(("shape", "shape", "icon", "letter"))
    anchors, dress = pick_anchors(canvas, kind, len(cells), ground.surface), pick_dress(canvas, kind)
    drafts = []
    for cell, anchor, index in zip(cells, anchors, rng.sample(range(count), len(cells)), strict=True):
        middle = (cell[0] + cell[2]) / 2
        spot = (middle - side / 2, cell[1], middle + side / 2, cell[1] + side)
        draw_anchor(canvas, anchor, spot, dress)
        at = (middle, spot[3] + tall * 0.7)
        canvas.card((at[0] - small, at[1] - tall / 2, at[0] + small, at[1] + tall / 2), fill=(255, 255, 255), radius=6)
        ink = canvas.text(at, str(index + 1), bold=True, fill=(20, 20, 20), align="mm")
        if anchor.askable:
            drafts.append(legend_draft(canvas, anchor, (index + 1, names[index]), (spot, ink, legend, lines[index])))
    return drafts


def draw_legend(canvas: Canvas, box: Box, names: list[str], title: int, step: int) -> list[Box]:
    """The legend with its lines "7 Harbor"; returns the box of each line."""
    canvas.card(box, fill=canvas.theme.card, line=canvas.theme.line, radius=canvas.rng.choice((0, 10)), width=3)
    ink, small = canvas.ink(canvas.theme.card), canvas.small_px
    at = (box[0] + small, box[1] + title * 0.4)
    canvas.text(at, "Legend", size=title, bold=True, family=canvas.head_font, fill=ink)
    lines = []
    for index, text in enumerate(names):
        y = box[1] + title * 1.5 + (index + 0.5) * step
        mark = canvas.text((box[0] + small * 2.2, y), str(index + 1), bold=True, fill=ink, align="rm")
        lines.append(union((mark, canvas.text((box[0] + small * 2.9, y), text, fill=ink, align="lm"))))
    return lines


def legend_draft(canvas: Canvas, anchor: Anchor, entry: tuple[int, str], seen: tuple[Box, Box, Box, Box]) -> Draft:
    """The question about a marker; `seen` is the anchor, its number, the legend and the legend's line."""
    spot, ink, legend, line = seen
    target = union((spot, ink))
    second = f"The number is {entry[0]}. {seen_at('The legend', legend, canvas.size)}"
    return Draft(
        text=canvas.rng.choice(ASK_LEGEND).format(anchor=anchor.phrase),
        answer=entry[1],
        evidence=(ink, line),
        plan=(
            Look(thought=seen_at(anchor.subject, target, canvas.size), target=target),
            Look(thought=second, target=legend),
        ),
        final_thought=f"Number {entry[0]} is {entry[1]}.",
    )


def panel_page(canvas: Canvas, ground: Ground) -> list[Draft]:
    """Panels with a large letter; inside each, small anchors with smaller labels."""
    rng = canvas.rng
    canvas.small_px = rng.randint(14, 17)
    block = (rng.randint(470, 540), rng.randint(470, 540))
    cells = arrange(rng, "grid" if rng.random() < 0.6 else "scatter", ground.area, (block[0] + 8, block[1] + 8), 12)
    letters, drafts = rng.sample(LETTERS, len(cells)), []
    kind: AnchorKind = rng.choice(("shape", "shape", "icon"))
    fill = canvas.theme.card
    names = pick_anchors(canvas, kind, rng.randint(8, 14), fill)
    dress, maker = pick_dress(canvas, kind), rng.choice((code, code, number, word, made_up))
    for cell, letter in zip(cells, letters, strict=True):
        panel = (cell[0], cell[1], cell[0] + block[0], cell[1] + block[1])
        canvas.card(panel, fill=fill, line=canvas.theme.line, radius=rng.choice((0, 14)), width=3)
        head = canvas.big(26)
        draw_mark(canvas, letter, (panel[0] + 14, panel[1] + 12, panel[0] + 14 + head, panel[1] + 12 + head),
                  canvas.ink(fill), canvas.head_font)  # fmt: skip
        inner = (panel[0] + 10, panel[1] + head + 24, panel[2] - 10, panel[3] - 10)
        anchors = rng.sample(names, rng.randint(4, 6))
        spots = arrange(rng, "scatter", inner, (104, 96), len(anchors))
        for spot, anchor in zip(spots, anchors, strict=False):
            middle = (spot[0] + spot[2]) / 2
            mark = (middle - 27, spot[1], middle + 27, spot[1] + 54)
            draw_anchor(canvas, anchor, mark, dress)
            text = maker(rng)
            ink = canvas.text((middle, spot[1] + 72), text, fill=canvas.ink(fill), align="mm")
            if anchor.askable:
                drafts.append(panel_draft(canvas, (letter, anchor, text), (panel, union((mark, ink)), ink)))
    return drafts


def panel_draft(canvas: Canvas, named: tuple[str, Anchor, str], seen: tuple[Box, Box, Box]) -> Draft:
    """The question about a label in a panel; `seen` is the panel, the anchor with its label, the label."""
    letter, anchor, text = named
    panel, target, ink = seen
    return Draft(
        text=canvas.rng.choice(ASK_PANEL).format(panel=letter, anchor=anchor.phrase),
        answer=text,
        evidence=(ink,),
        plan=(
            Look(thought=seen_at(f"Panel {letter}", panel, canvas.size), target=panel),
            Look(thought=seen_at(anchor.subject, target, panel), target=target, within=1),
        ),
        final_thought=f"The label says {text}.",
    )
