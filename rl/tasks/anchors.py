"""Things that a question can name and that are seen at first view: coloured shapes, icons, letters and numbers.

Within one picture no two anchors share a name. Shapes share colours and forms with each other, so that both words of
"the red star" matter.
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageEnhance, ImageOps

from foveate.rl.tasks import assets
from foveate.rl.tasks.canvas import SHAPES, Canvas
from foveate.rl.tasks.palette import NAMED, Color, distance, ink_on, luminance, shade, visible_names
from foveate.rl.tasks.scene import Box, Mark
from foveate.rl.tasks.words import LETTERS

AnchorKind = Literal["shape", "icon", "letter", "number"]
Badge = Literal["none", "disc", "plate"]
Tint = Literal["plain", "gray", "hue", "faded"]


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One nameable thing."""

    kind: AnchorKind
    name: str
    """As in a question, without the article: "red star", "umbrella", "letter K", "number 7"."""
    color: Color = (0, 0, 0)
    form: str = ""
    """The shape, the icon's name, or the letters to draw."""
    askable: bool = True

    @property
    def phrase(self) -> str:
        """The name with its article."""
        return f"the {self.name}"

    @property
    def subject(self) -> str:
        """The name as the start of a sentence."""
        return f"The {self.name}"


def pick_kind(rng: random.Random) -> AnchorKind:
    """Which anchors a picture has."""
    return rng.choices(("shape", "icon", "letter", "number"), (45, 30, 15, 10))[0]


MOST: dict[AnchorKind, int] = {"shape": 36, "icon": 40, "letter": 23, "number": 30}
"""How many anchors of a kind one picture can hold without two of the same name."""


def pick_anchors(canvas: Canvas, kind: AnchorKind, count: int, surface: Color) -> list[Anchor]:
    """`count` anchors with different names that stand out on `surface`."""
    rng = canvas.rng
    if kind == "shape":
        names = visible_names(surface)
        colors = rng.sample(names, min(len(names), rng.randint(4, 8)))
        forms = rng.sample(SHAPES, max(rng.randint(5, len(SHAPES)), -(-count // len(colors))))
        pairs = rng.sample([(color, form) for color in colors for form in forms], count)
        return [Anchor(kind=kind, name=f"{c} {f}", color=shade(rng, c), form=f) for c, f in pairs]
    if kind == "icon":
        strange = rng.sample(tuple(assets.TEST_ONLY_ICONS), min(2, count // 4)) if canvas.split == "test" else []
        known = rng.sample(tuple(assets.ICONS), count - len(strange))
        mixed = [Anchor(kind=kind, name=name, form=name, askable=name in assets.ICONS) for name in known + strange]
        rng.shuffle(mixed)
        return mixed
    forms_text = rng.sample(LETTERS, count) if kind == "letter" else [str(n) for n in rng.sample(range(1, 40), count)]
    color = canvas.ink(surface) if rng.random() < 0.5 else shade(rng, rng.choice(visible_names(surface)))
    return [Anchor(kind=kind, name=f"{kind} {form}", color=color, form=form) for form in forms_text]


@dataclass(frozen=True, kw_only=True)
class Dress:
    """How all anchors of a picture are drawn."""

    badge: Badge
    badge_color: Color
    outline: bool
    tint: Tint
    flip: bool
    style: str
    family: str
    wobble: float
    """Largest turn of a shape in degrees."""


def pick_dress(canvas: Canvas, kind: AnchorKind) -> Dress:
    """A way of drawing anchors, the same for a whole picture."""
    rng = canvas.rng
    badge: Badge = rng.choices(("none", "disc", "plate"), (4, 3, 3) if kind in ("letter", "number") else (7, 1, 1))[0]
    if kind in ("letter", "number"):
        badge_color = shade(rng, rng.choice(tuple(NAMED)))
    else:
        badge_color = (255, 255, 255) if rng.random() < 0.7 or kind == "shape" else canvas.theme.page
    return Dress(
        badge=badge,
        badge_color=badge_color,
        outline=rng.random() < 0.25,
        tint=rng.choices(("plain", "gray", "hue", "faded"), (86, 3, 5, 6))[0],
        flip=rng.random() < 0.25,
        style=canvas.style,
        family=canvas.head_font,
        wobble=rng.choice((0.0, 0.0, 6.0)),
    )


@lru_cache(maxsize=1024)
def _tinted(name: str, style: str, tint: Tint, flip: bool) -> Image.Image:
    drawing = assets.icon(name, style)
    alpha = drawing.getchannel("A")
    plain = drawing.convert("RGB")
    if tint == "gray":
        plain = ImageOps.grayscale(plain).convert("RGB")
    elif tint == "hue":
        red, green, blue = plain.split()
        plain = Image.merge("RGB", (green, blue, red)) if len(name) % 2 else Image.merge("RGB", (blue, green, red))
    elif tint == "faded":
        plain = ImageEnhance.Color(plain).enhance(0.45)
    plain.putalpha(alpha)
    return ImageOps.mirror(plain) if flip else plain


def draw_anchor(canvas: Canvas, anchor: Anchor, box: Box, dress: Dress) -> None:
    """Draw an anchor so that it fills `box` (square)."""
    x0, y0, x1, y1 = box
    side, color = x1 - x0, anchor.color
    if anchor.kind in ("shape", "icon"):
        canvas.marks.append(Mark(name=anchor.name, box=box))
    if dress.badge != "none":
        radius = int(side / 2) if dress.badge == "disc" else int(side * 0.12)
        canvas.card(box, fill=dress.badge_color, radius=radius)
        inset = side * (0.2 if dress.badge == "disc" else 0.12)
        x0, y0, x1, y1 = x0 + inset, y0 + inset, x1 - inset, y1 - inset
    if anchor.kind == "shape":
        if dress.badge != "none" and distance(color, dress.badge_color) < 125:
            canvas.card(box, fill=ink_on(color), radius=int(side * 0.12))
        edge = (30, 30, 34) if luminance(color) > 60 else (235, 235, 235)
        angle = canvas.rng.uniform(-dress.wobble, dress.wobble) if dress.wobble else 0.0
        canvas.shape(anchor.form, (x0, y0, x1, y1), color, outline=edge if dress.outline else None, angle=angle)
    elif anchor.kind == "icon":
        canvas.picture(_tinted(anchor.form, dress.style, dress.tint, dress.flip), (x0, y0, x1, y1))
    else:
        ink = ink_on(dress.badge_color) if dress.badge != "none" else color
        draw_mark(canvas, anchor.form, (x0, y0, x1, y1), ink, dress.family)


def draw_mark(canvas: Canvas, text: str, box: Box, color: Color, family: str) -> Box:
    """Large letters or digits, bold, as tall as `box` allows, centred; returns the box of the ink."""
    width, height = box[2] - box[0], box[3] - box[1]
    size = int(height * 1.3)
    wide, tall = canvas.measure(text, size, bold=True, family=family)
    size = max(10, int(size * min(1.0, width / max(1, wide), height / max(1, tall))))
    center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    left, top, right, bottom = canvas.font(size, bold=True, family=family).getbbox(text, anchor="ms")
    at = (center[0] - (left + right) / 2, center[1] - (top + bottom) / 2)
    ink = canvas.text(at, text, size=size, bold=True, family=family, fill=color, align="ms")
    if text.isdigit() or len(text) == 1:
        canvas.marks.append(Mark(name=f"{'number' if text.isdigit() else 'letter'} {text}", box=ink))
    return ink
