"""Where blocks of one size go on a page: grid, scatter, rows; ring and honeycomb belong to test alone."""

import random
from math import cos, pi, sin
from typing import Literal

from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.scene import Box

Layout = Literal["grid", "scatter", "rows", "ring", "honeycomb"]


def pick_layout(rng: random.Random, split: Split) -> Layout:
    """A layout; test draws a third of its pictures in layouts that training never uses."""
    if split == "test" and rng.random() < 0.34:
        return rng.choice(("ring", "honeycomb"))
    return rng.choice(("grid", "scatter", "scatter", "rows"))


def arrange(rng: random.Random, layout: Layout, area: Box, block: tuple[float, float], count: int) -> list[Box]:
    """Up to `count` boxes of size `block` inside `area` that do not touch, in random order of reading."""
    if layout == "ring":
        boxes = ring(area, block, count)
        if len(boxes) >= min(count, 5):
            return boxes
    columns = max(1, int((area[2] - area[0]) / (block[0] * 1.08)))
    rows = max(1, int((area[3] - area[1]) / (block[1] * 1.08)))
    if layout == "grid":
        columns, rows = shrink(rng, columns, rows, count)
    step_x, step_y = (area[2] - area[0]) / columns, (area[3] - area[1]) / rows
    slack_x, slack_y = step_x - block[0], step_y - block[1]
    boxes = []
    for row in range(rows):
        push = slack_x * (0.9 if row % 2 else 0.1) if layout == "honeycomb" else slack_x / 2
        for column in range(columns):
            dx, dy = push, slack_y / 2
            if layout == "scatter":
                dx, dy = slack_x * rng.uniform(0.04, 0.96), slack_y * rng.uniform(0.04, 0.96)
            elif layout == "rows":
                dx = slack_x * rng.uniform(0.04, 0.96)
            x, y = area[0] + column * step_x + dx, area[1] + row * step_y + dy
            boxes.append((x, y, x + block[0], y + block[1]))
    return boxes if len(boxes) <= count else sorted(rng.sample(boxes, count), key=lambda box: (box[1], box[0]))


def shrink(rng: random.Random, columns: int, rows: int, count: int) -> tuple[int, int]:
    """A full grid with about `count` cells, not larger than columns x rows."""
    fits = [(c, r) for c in range(1, columns + 1) for r in range(1, rows + 1) if c * r <= count]
    most = max(c * r for c, r in fits)
    return rng.choice([(c, r) for c, r in fits if c * r >= 0.75 * most and c / r < 4 and r / c < 4] or fits[-1:])


def ring(area: Box, block: tuple[float, float], count: int) -> list[Box]:
    """Boxes on an ellipse, as many as fit without touching, at most `count`."""
    width, height = area[2] - area[0] - block[0], area[3] - area[1] - block[1]
    cx, cy = (area[0] + area[2]) / 2, (area[1] + area[3]) / 2
    if width <= 0 or height <= 0:
        return []
    for number in range(count, 4, -1):
        points = [(2 * pi * i / number - pi / 2) for i in range(number)]
        centers = [(cx + width / 2 * cos(a), cy + height / 2 * sin(a)) for a in points]
        apart = all(
            abs(a[0] - b[0]) >= block[0] or abs(a[1] - b[1]) >= block[1]
            for i, a in enumerate(centers)
            for b in centers[:i]
        )
        if apart:
            return [(x - block[0] / 2, y - block[1] / 2, x + block[0] / 2, y + block[1] / 2) for x, y in centers]
    return []
