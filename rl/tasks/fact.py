"""Family `fact`: read or recognise something small, look it up, answer from what the search says.

Under each anchor hangs a small sign with the name of a country or an element, a small flag, or a tile with an element's
symbol. One zoom names the subject, one search in the local corpus gives the fact. Only short facts whose value nobody
guesses (no continents, no euro) are asked; a test holds that the search finds each of them with the oracle's query.

A fact, one relation of one subject, is asked in one split alone: a sixth of all is kept for test and a sixth for
validation, so what training asked does not help there. Every subject is recognised in training: flags are named on
sheets, names are read.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from foveate.rl.tasks import assets
from foveate.rl.tasks.anchors import MOST, Anchor, draw_anchor, pick_anchors, pick_dress, pick_kind
from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.canvas import Canvas, picture_size
from foveate.rl.tasks.layout import arrange, pick_layout
from foveate.rl.tasks.oracle import Draft, Look, Lookup, finish, seen_at, union
from foveate.rl.tasks.palette import NAMED, Color, ink_on, shade
from foveate.rl.tasks.scene import Box, Drawing, Mark
from foveate.rl.tasks.setting import Ground, draw_setting, pick_setting
from foveate.tools.corpus import Fact, facts

FLAGS: dict[str, str] = {
    "al": "Albania", "ae": "United Arab Emirates", "ar": "Argentina", "at": "Austria", "bb": "Barbados",
    "bd": "Bangladesh", "be": "Belgium", "bg": "Bulgaria", "bh": "Bahrain", "bw": "Botswana", "br": "Brazil",
    "ca": "Canada", "ch": "Switzerland", "cl": "Chile", "cm": "Cameroon", "cn": "China", "cr": "Costa Rica",
    "cu": "Cuba", "cy": "Cyprus", "cz": "Czech Republic", "de": "Germany", "dk": "Denmark", "dz": "Algeria",
    "ee": "Estonia",
    "es": "Spain", "fi": "Finland", "fr": "France", "ga": "Gabon", "gb": "United Kingdom", "ge": "Georgia",
    "gh": "Ghana", "gr": "Greece", "hu": "Hungary", "il": "Israel", "in": "India", "is": "Iceland", "it": "Italy",
    "jm": "Jamaica", "jp": "Japan", "ke": "Kenya", "kr": "South Korea", "la": "Laos", "lb": "Lebanon",
    "lt": "Lithuania", "lv": "Latvia", "ma": "Morocco", "mk": "North Macedonia", "mn": "Mongolia", "mx": "Mexico",
    "my": "Malaysia", "ng": "Nigeria", "no": "Norway", "np": "Nepal", "pa": "Panama", "pe": "Peru", "pk": "Pakistan",
    "pt": "Portugal", "ru": "Russia", "sa": "Saudi Arabia", "se": "Sweden", "so": "Somalia", "tn": "Tunisia",
    "tr": "Turkey", "ua": "Ukraine", "us": "United States", "uy": "Uruguay", "vn": "Vietnam", "za": "South Africa",
}  # fmt: skip
"""Flag code -> subject in the corpus; flags that differ clearly from all others of the list."""
RELATIONS = {
    "country": ("capital", "population", "area", "currency", "highest point"),
    "element": (
        "symbol", "atomic number", "atomic weight", "melting point", "boiling point", "density", "discovery year",
    ),
}  # fmt: skip
WEIGHTS = {"capital": 8, "currency": 2}
"""How often a relation is asked; 1 where it is not named."""
ASK = {
    "country sign": "What is the {relation} of the country named {rel} {anchor}?",
    "element sign": "What is the {relation} of the element named {rel} {anchor}?",
    "flag": "What is the {relation} of the country whose flag is {rel} {anchor}?",
    "tile": "What is the {relation} of the element on the tile {rel} {anchor}?",
}
ASK_SHORT = {
    "country sign": "Find the country named {rel} {anchor}. What is its {relation}?",
    "element sign": "Find the element named {rel} {anchor}. What is its {relation}?",
    "flag": "Which country has the flag {rel} {anchor}, and what is its {relation}?",
    "tile": "Read the tile {rel} {anchor}. What is the {relation} of this element?",
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something that the corpus knows, and how a picture shows it."""

    name: str
    shown: str
    """The text on the sign or tile, or the code of the flag."""
    known: tuple[Fact, ...]

    @property
    def weight(self) -> int:
        """How often it is asked about: each of its facts by its own weight."""
        return sum(weight_of(fact) for fact in self.known)


@lru_cache(maxsize=1)
def askable() -> dict[str, tuple[Fact, ...]]:
    """Subject -> facts that can be asked: plain letters, short names and values."""
    found: dict[str, tuple[Fact, ...]] = {}
    for fact in facts():
        if fact.relation not in RELATIONS[fact.kind] or not fact.value.isascii() or not fact.subject.isascii():
            continue
        if len(fact.value) > 20 or len(fact.subject) > 20 or fact.value == "euro" or "," in fact.subject:
            continue
        found[fact.subject] = (*found.get(fact.subject, ()), fact)
    return found


def weight_of(fact: Fact) -> int:
    """How often a fact is asked beside the others."""
    return WEIGHTS.get(fact.relation, 1)


def split_of(fact: Fact) -> Split:
    """The split that asks a fact; the same on every machine."""
    part = hashlib.sha256(f"{fact.subject}/{fact.relation}".encode()).digest()[0] % 6
    return "test" if part == 0 else "validation" if part == 1 else "train"


def query_of(relation: str, name: str) -> str:
    """The oracle's query."""
    return f"{relation} of {name}"


@lru_cache(maxsize=12)
def subjects(kind: str, split: Split) -> tuple[Subject, ...]:
    """What a kind of sign ("country sign", "element sign", "flag" or "tile") shows in a split, and what is asked."""
    asked = ((subject, tuple(row for row in subject.known if split_of(row) == split)) for subject in shown_by(kind))
    return tuple(replace(subject, known=rows) for subject, rows in asked if rows)


def shown_by(kind: str) -> tuple[Subject, ...]:
    """Everything that a kind of sign can show."""
    known = askable()
    if kind == "flag":
        return tuple(Subject(name=name, shown=code, known=known[name]) for code, name in FLAGS.items() if name in known)
    wanted = "country" if kind == "country sign" else "element"
    found = {name: found for name, found in known.items() if found[0].kind == wanted}
    if kind != "tile":
        return tuple(Subject(name=name, shown=name.capitalize() if wanted == "element" else name, known=rows)
                     for name, rows in found.items())  # fmt: skip
    tiles = []
    for rows in found.values():
        symbol = next((row.value for row in rows if row.relation == "symbol"), "")
        others = tuple(row for row in rows if row.relation != "symbol")
        if symbol and others:
            tiles.append(Subject(name=symbol, shown=symbol, known=others))
    return tuple(tiles)


def draw(rng: random.Random, split: Split) -> Drawing:
    """A page of signs, flags or tiles under anchors, with questions."""
    kind = rng.choices(("country sign", "element sign", "flag", "tile"), (4, 2, 3, 2))[0]
    canvas = Canvas(rng, split, picture_size(rng, least=2.8e6) if kind == "flag" else None)
    drafts = sign_page(canvas, draw_setting(canvas, pick_setting(rng, split)), kind)
    return finish(canvas, rng.sample(drafts, min(len(drafts), rng.randint(2, 5))), "fact")


def pick_subjects(rng: random.Random, known: Sequence[Subject], count: int) -> list[Subject]:
    """`count` different subjects in any order, by their weights: a relation is about as common in every split.

    Weighted sampling without replacement, Efraimidis and Spirakis 2006.
    """
    picked = sorted(known, key=lambda subject: rng.random() ** (1 / subject.weight), reverse=True)[:count]
    return rng.sample(picked, len(picked))


def sign_page(canvas: Canvas, ground: Ground, kind: str) -> list[Draft]:
    """Anchors with a small sign under or above each."""
    rng, small = canvas.rng, canvas.small_px
    side, relation = canvas.big(rng.uniform(28, 38)), rng.choice(("under", "under", "above"))
    anchor_kind = pick_kind(rng)
    shown = pick_subjects(rng, subjects(kind, canvas.split), min(MOST[anchor_kind], rng.randint(5, 20)))
    wide, tall = sign_size(canvas, kind, shown)
    gap = small * 0.4
    block = (max(side, wide) + canvas.big(4), side + gap + tall + canvas.big(5))
    cells = arrange(rng, pick_layout(rng, canvas.split), ground.area, block, len(shown))
    anchors, dress = pick_anchors(canvas, anchor_kind, len(cells), ground.surface), pick_dress(canvas, anchor_kind)
    plate = rng.choice((None, (255, 255, 255), shade(rng, rng.choice(tuple(NAMED)))))
    drafts = []
    for cell, anchor, subject in zip(cells, anchors, shown, strict=False):
        middle, y = (cell[0] + cell[2]) / 2, cell[1] + (tall + gap if relation == "above" else 0)
        box = (middle - side / 2, y, middle + side / 2, y + side)
        draw_anchor(canvas, anchor, box, dress)
        top = y - gap - tall if relation == "above" else y + side + gap
        sign = (middle - wide / 2, top, middle + wide / 2, top + tall)
        ink = draw_sign(canvas, kind, subject, sign, (plate, ground.surface))
        if anchor.askable:
            drafts.append(fact_draft(canvas, (kind, relation), anchor, subject, (union((box, ink)), ink)))
    return drafts


def sign_size(canvas: Canvas, kind: str, shown: list[Subject]) -> tuple[int, int]:
    """Width and height of a sign in px, the same for the whole page."""
    small = canvas.small_px
    if kind == "flag":
        wide = int(10 * canvas.view_scale)
        return wide, int(wide * 0.75)
    if kind == "tile":
        return int(small * 2.4), int(small * 2.4)
    return max(canvas.measure(subject.shown, small, bold=True)[0] for subject in shown) + small, int(small * 1.6)


def draw_flag(canvas: Canvas, code: str, box: Box) -> None:
    """Draw the flag of one of FLAGS so that it fills `box`."""
    canvas.picture(assets.flag(code), box)
    canvas.marks.append(Mark(name=f"flag of {FLAGS[code]}", box=box))


def draw_sign(canvas: Canvas, kind: str, subject: Subject, box: Box, colors: tuple[Color | None, Color]) -> Box:
    """Draw a sign; `colors` are its plate (None: bare text) and the ground. Returns the box to be read."""
    plate, surface = colors
    if kind == "flag":
        draw_flag(canvas, subject.shown, box)
        canvas.draw.rectangle(box, outline=(120, 120, 120), width=1)
        return box
    fill = plate if plate or kind != "tile" else canvas.theme.card
    if fill:
        canvas.card(box, fill=fill, radius=6, line=(70, 70, 74))
    ink = ink_on(fill) if fill else canvas.ink(surface)
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return canvas.text(middle, subject.shown, bold=kind == "tile", fill=ink, align="mm")


def fact_draft(
    canvas: Canvas, words: tuple[str, str], anchor: Anchor, subject: Subject, seen: tuple[Box, Box]
) -> Draft:
    """The question about one sign; `words` are the kind of sign and its relation to the anchor."""
    rng, (kind, rel) = canvas.rng, words
    fact = rng.choices(subject.known, list(map(weight_of, subject.known)))[0]
    asks = ASK if rng.random() < 0.6 else ASK_SHORT
    read = f"It is the flag of {subject.name}." if kind == "flag" else f"It says {subject.shown}."
    return Draft(
        text=asks[kind].format(relation=fact.relation, rel=rel, anchor=anchor.phrase),
        answer=fact.value,
        accept=fact.accept,
        evidence=(seen[1],),
        plan=(
            Look(thought=seen_at(anchor.subject, seen[0], canvas.size), target=seen[0]),
            Lookup(
                thought=read,
                query=query_of(fact.relation, subject.shown if kind != "flag" else subject.name),
                result=f"{fact.title}: {fact.text}",
            ),
        ),
        final_thought=f"The {fact.relation} is {fact.value}.",
    )
