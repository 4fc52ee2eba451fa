"""Small charts whose values are printed on them: columns, line, pie; horizontal bars belong to test alone.

Values are read, never estimated: every mark carries its number in small text, so a chart is a label task for the eye
and a list of numbers for the code.
"""

import random
from collections.abc import Sequence
from math import cos, pi, sin
from typing import Literal

from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.canvas import Canvas
from foveate.rl.tasks.palette import Color, distance, ink_on, shade, visible_names
from foveate.rl.tasks.scene import Box

ChartKind = Literal["columns", "line", "pie", "bars"]


def pick_chart(rng: random.Random, split: Split) -> ChartKind:
    """A kind of chart; test draws a third of them as horizontal bars."""
    if split == "test" and rng.random() < 0.34:
        return "bars"
    return rng.choices(("columns", "line", "pie"), (5, 2, 3))[0]


def series_colors(canvas: Canvas, count: int) -> list[Color]:
    """Colours of the marks: one for all, or all different."""
    names = visible_names(canvas.theme.card)
    if canvas.rng.random() < 0.5:
        return [shade(canvas.rng, canvas.rng.choice(names))] * count
    return [shade(canvas.rng, name) for name in canvas.rng.sample(names, count)]


def draw_chart(canvas: Canvas, kind: ChartKind, box: Box, names: Sequence[str], values: Sequence[str]) -> list[Box]:
    """Draw a chart inside `box`; returns the box of each printed value."""
    painter = {"columns": _columns, "line": _line, "pie": _pie, "bars": _bars}[kind]
    return painter(canvas, box, names, values)


def _slots(canvas: Canvas, box: Box, names: Sequence[str]) -> tuple[list[float], float, float, float]:
    """Centre of every mark, the base line, the top and the width of a slot; draws names and axis."""
    small = canvas.small_px
    width = (box[2] - box[0]) / len(names)
    base, top = box[3] - small * 1.5, box[1] + small * 1.6
    centers = [box[0] + (index + 0.5) * width for index in range(len(names))]
    ink = canvas.ink(canvas.theme.card)
    for center, name in zip(centers, names, strict=True):
        canvas.text((center, base + small * 0.3), name, fill=ink, align="mt")
    canvas.draw.line((box[0], base, box[2], base), fill=ink, width=3)
    return centers, base, top, width


def _heights(values: Sequence[str]) -> list[float]:
    """Share of the full height for each value."""
    numbers = [float(value) for value in values]
    return [0.12 + 0.88 * number / max(numbers) for number in numbers]


def _columns(canvas: Canvas, box: Box, names: Sequence[str], values: Sequence[str]) -> list[Box]:
    centers, base, top, width = _slots(canvas, box, names)
    half = width * canvas.rng.uniform(0.22, 0.4)
    ink, boxes = canvas.ink(canvas.theme.card), []
    shares, colors = _heights(values), series_colors(canvas, len(names))
    for center, share, color, value in zip(centers, shares, colors, values, strict=True):
        y = base - share * (base - top)
        canvas.draw.rectangle((center - half, y, center + half, base), fill=color)
        boxes.append(canvas.text((center, y - canvas.small_px * 0.25), value, fill=ink, align="ms"))
    return boxes


def _line(canvas: Canvas, box: Box, names: Sequence[str], values: Sequence[str]) -> list[Box]:
    centers, base, top, _ = _slots(canvas, box, names)
    color, ink, boxes = series_colors(canvas, 1)[0], canvas.ink(canvas.theme.card), []
    points = [(x, base - share * (base - top)) for x, share in zip(centers, _heights(values), strict=True)]
    canvas.draw.line(points, fill=color, width=max(4, canvas.small_px // 4))
    for (x, y), value in zip(points, values, strict=True):
        r = canvas.small_px * 0.35
        canvas.draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
        wide, tall = canvas.measure(value, canvas.small_px)
        floor = y - canvas.small_px * 0.6
        canvas.card((x - wide / 2 - 3, floor - tall - 3, x + wide / 2 + 3, floor + 3))
        boxes.append(canvas.text((x, floor), value, fill=ink, align="ms"))
    return boxes


def _pie(canvas: Canvas, box: Box, names: Sequence[str], values: Sequence[str]) -> list[Box]:
    """A pie with its names and values listed beside it, each behind the colour of its slice."""
    small, side = canvas.small_px, min((box[2] - box[0]) * 0.42, box[3] - box[1])
    center = (box[0] + side / 2, (box[1] + box[3]) / 2)
    circle = (center[0] - side / 2, center[1] - side / 2, center[0] + side / 2, center[1] + side / 2)
    palette = visible_names(canvas.theme.card)
    colors = [shade(canvas.rng, name) for name in canvas.rng.sample(palette, len(names))]
    start, total = canvas.rng.uniform(0, 360), sum(float(value) for value in values)
    for color, value in zip(colors, values, strict=True):
        end = start + 360 * float(value) / total
        canvas.draw.pieslice(circle, start, end, fill=color, outline=canvas.theme.card, width=3)
        start = end
    ink, step = canvas.ink(canvas.theme.card), min(small * 1.7, (box[3] - box[1]) / len(names))
    x, y, boxes = box[0] + side + small, center[1] - step * len(names) / 2, []
    for index, (color, name, value) in enumerate(zip(colors, names, values, strict=True)):
        line = y + (index + 0.5) * step
        canvas.draw.rectangle((x, line - small * 0.35, x + small * 0.7, line + small * 0.35), fill=color)
        label = canvas.text((x + small * 1.1, line), name, fill=ink, align="lm")
        boxes.append(canvas.text((label[2] + small * 0.6, line), value, fill=ink, bold=True, align="lm"))
    return boxes


def _bars(canvas: Canvas, box: Box, names: Sequence[str], values: Sequence[str]) -> list[Box]:
    small, step = canvas.small_px, (box[3] - box[1]) / len(names)
    left = box[0] + max(canvas.measure(name, small)[0] for name in names) + small * 0.6
    room = box[2] - left - max(canvas.measure(value, small)[0] for value in values) - small * 0.8
    ink, boxes = canvas.ink(canvas.theme.card), []
    shares, colors = _heights(values), series_colors(canvas, len(names))
    for index, (name, share, color, value) in enumerate(zip(names, shares, colors, values, strict=True)):
        line, half = box[1] + (index + 0.5) * step, step * 0.32
        canvas.text((left - small * 0.5, line), name, fill=ink, align="rm")
        canvas.draw.rectangle((left, line - half, left + room * share, line + half), fill=color)
        boxes.append(canvas.text((left + room * share + small * 0.4, line), value, fill=ink, align="lm"))
    return boxes


def gauge(canvas: Canvas, box: Box, color: Color, share: float) -> None:
    """A dial as decoration around a printed number: an arc that is filled to `share`."""
    line = max(5, int((box[2] - box[0]) * 0.07))
    soft = canvas.theme.line if distance(canvas.theme.line, color) > 60 else ink_on(canvas.theme.card)
    canvas.draw.arc(box, 150, 390, fill=soft, width=line)
    canvas.draw.arc(box, 150, 150 + 240 * share, fill=color, width=line)
    angle = (150 + 240 * share) * pi / 180
    center, reach = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), (box[2] - box[0]) * 0.4
    tip = (center[0] + reach * cos(angle), center[1] + reach * sin(angle))
    near = (center[0] + reach * 0.7 * cos(angle), center[1] + reach * 0.7 * sin(angle))
    canvas.draw.line((*near, *tip), fill=color, width=max(3, line // 2))
