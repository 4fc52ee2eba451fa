"""The facts that ship with Foveate: what the search tool finds, and what task generators may ask.

`facts.jsonl` holds one line per subject (a country, a territory or a chemical element) with its facts. A fact is one
relation of one subject with one value, and one short sentence that states it: the passage that a search returns. So a
question drawn from `facts()` always has its answer in the index. Values are those of the named source and year (see
README.md in this folder); two tables of the world rarely agree, so never judge an answer by another one.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

Kind = Literal["country", "element"]
Relation = Literal[
    "capital",
    "population",
    "area",
    "currency",
    "language",
    "continent",
    "highest point",
    "symbol",
    "atomic number",
    "atomic weight",
    "melting point",
    "boiling point",
    "density",
    "discovery year",
    "category",
]


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One relation of one subject."""

    subject: str
    """Common English name: "Norway", "Ivory Coast", "iron"."""
    kind: Kind
    relation: Relation
    value: str
    """The answer as the passage writes it, without the unit: "Oslo", "5,509,733", "1811.15"."""
    unit: str
    """"sq km", "K", "g/cm3" or empty."""
    accept: tuple[str, ...]
    """Other right answers: other spellings, without thousands separators, with the unit, in degrees Celsius, ..."""
    names: tuple[str, ...]
    """Other names of the subject: long forms, old names, an element's symbol."""
    text: str
    """The passage, one or two plain sentences of at most 200 characters."""

    @property
    def title(self) -> str:
        """What the passage is about, as a search result shows it: "Norway: capital"."""
        return f"{self.subject}: {self.relation}"


@cache
def facts() -> tuple[Fact, ...]:
    """Every fact of the corpus, in the order of the file: countries by name, then elements by atomic number."""
    found: list[Fact] = []
    for line in files(__package__).joinpath("facts.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for relation, (value, unit, accept, text) in row["facts"].items():
            found.append(
                Fact(
                    subject=row["subject"],
                    kind=row["kind"],
                    relation=relation,
                    value=value,
                    unit=unit,
                    accept=tuple(accept),
                    names=tuple(row["names"]),
                    text=text,
                )
            )
    return tuple(found)
