"""An answer is right when it says the same as the expected one: numbers by value, all else letter by letter.

Proved by tables, for each type of answer, of what is the same and what is not; the truth of every family of drawn
questions is worth 1, and with its last letter or digit changed 0; a type that nobody names is the one there was before.
"""

import pytest

from foveate.rl.reward import Kind, is_right
from foveate.rl.suite import drawn_item
from foveate.rl.tasks.scene import FAMILIES, draw_scene


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("K7", "K7"),
        (" k7. ", "K7"),
        ("the  Washington\nPost", "The Washington Post"),
        ('"Miss Watson\u2019s Lecture."', "Miss Watson's Lecture"),
        ("1234.5", "1,234.50"),
        ("$143", "$143.00"),
        ("143.00", "$143"),
        ("12.50 \u20ac", "\u20ac12.5"),
        ("$ -4", "-$4.00"),
        ("\u22124.0", "-4"),
        (".5", "0.50"),
        ("18.0.", "18"),
        ("+7", "7"),
        ("1951\u20131960", "1951-1960"),
        ("(20)", "20"),
        ("?", "?"),
        ("**12.50**", "12.5"),
        ("**$12.50**.", "12.50"),
        ("12.50.", "12.50"),
        ("'Paris'", "Paris"),
        ("\u201cParis\u201d.", "paris"),
        ("'Miss Watson's Lecture'", "Miss Watson\u2019s Lecture"),
        ("***`K7`***", "K7"),
        ("_Paris_!", "[paris]"),
        ("... Paris", "Paris"),
        ("<5>", "5"),
        ("<5", "<5."),
        ("5\u2019", "5'"),
        ("(a) or (b)", "(a) or (b)"),
        ("\u5df4\u9ece\u3002", "\u5df4\u9ece"),
        ("\uff15\uff10", "50"),
        ("\uffe512.50", "12.50"),
        ("\u20b9500", "500"),
    ],
)
def test_same(answer: str, expected: str) -> None:
    assert is_right(answer, expected)
    assert is_right(expected, answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", ""),
        (" ", "-"),
        ("K70", "K7"),
        ("K7.0", "K7"),
        ("007", "7"),
        ("0450", "450"),
        ("12 km", "12"),
        ("25%", "25"),
        ("$5", "\u20ac5"),
        ("\u20b9500", "$500"),
        ("-5", "5"),
        ("4,50", "4.50"),
        ("4,50", "450"),
        ("12,34,567", "1234567"),
        ("5", "0.5"),
        ("1/3/05", "01/03/05"),
        ("The answer is 7", "7"),
        ("7 8", "78"),
        ("<5", ">5"),
        ("<5", "5"),
        (">5", "5"),
        ('5"', "5"),
        ("5'", "5"),
        ("5'", '5"'),
        ("C*", "C"),
        ("_5", "5"),
        (",5", "5"),
        ("(5", "5"),
        ("-5", "(5)"),
        ("'90s", "90s"),
        ("(a) or (b)", "a) or (b"),
        ("()", "[]"),
        ("...", "!!!"),
    ],
)
def test_different(answer: str, expected: str) -> None:
    assert not is_right(answer, expected)


def test_accepted_spellings() -> None:
    assert is_right("12 km", "12", ["12 km", "twelve"])
    assert is_right("Twelve", "12", ["12 km", "twelve"])
    assert not is_right("12 m", "12", ["12 km", "twelve"])


@pytest.mark.parametrize(
    "text", ["0", "...", "-", "$", "1,000,000.00", "\u20ac 3", "a b", "0.866890", "00", "\u6f22\u5b57"]
)
def test_the_expected_answer_is_right(text: str) -> None:
    assert is_right(text, text)


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("text", "K7.", "k7"),
        ("number", "0.5", "1/2"),
        ("number", "-3 / 6", "-1/2"),
        ("number", "1e3", "1,000"),
        ("number", "2.5E-1", "1/4"),
        ("number", "5 %", "5%"),
        ("number", "5 %", "0.05"),
        ("number", "$1e3", "1000"),
        ("number", "12 KM", "12 km"),
        ("choice", "B. cat", "B"),
        ("choice", "(b)", "B"),
        ("choice", "b)", "(B) cat"),
        ("choice", "B: Cat.", "B. cat"),
        ("choice", "cat", "B. cat"),
        ("set", "B, A", "A, B"),
        ("set", "[b and a]", "A, B"),
        ("set", "A, B, and C", "C,B,A"),
        ("set", "2.0; 1,000", "1000; 2"),
        ("set", "B\u3001A", "A, B"),
        ("set", "Oslo", "oslo"),
        ("set", "5, $5", "$5, €5"),
        ("set", "$5, 5", "5, $5"),
        ("set", "(a), (b)", "b, a"),
        ("set", '"a", "b"', "b, a"),
        ("set", "**a** and **b**", "{b, a}."),
        ("set", "**A, B**", "b, a"),
        ("set", "...", "..."),
        ("choice", "**(B)**.", "b"),
        ("choice", "**B**. cat", "B"),
        ("choice", "**B.** cat", "B. cat"),
        ("choice", "*(b)*: Cat", "B"),
        ("set", "1,200 and 3,400", "1,200; 3,400"),
        ("set", "1,200, 7", "7 and 1200"),
        ("set", "1,200", "200, 1"),
        ("choice", "'B. cat'", "B"),
        ("choice", "B. John F. Kennedy", "B"),
        ("choice", "B. AND gate", "B"),
        ("choice", "C. Or gate", "C"),
        ("choice", "B. U.S.A.", "B"),
        ("choice", "C. p.m.", "C"),
        ("choice", "B. Andy. He waves", "B"),
        ("choice", "B. I", "B"),
        ("choice", "B. AND", "B"),
        ("choice", "C. A and B", "C"),
        ("choice", "D. R&B", "D"),
        ("choice", "B. A/C", "B"),
        ("choice", "A. John B. Watson", "A"),
        ("choice", "B. C. elegans", "B"),
        ("text", "**.5**", ".5"),
    ],
)
def test_same_of_a_type(kind: Kind, answer: str, expected: str) -> None:
    assert is_right(answer, expected, kind=kind)
    assert is_right(expected, answer, kind=kind)
    assert is_right(expected, expected, kind=kind)


@pytest.mark.parametrize(
    ("kind", "answer", "expected"),
    [
        ("any", "1/2", "0.5"),
        ("any", "1e3", "1000"),
        ("any", "5 %", "0.05"),
        ("any", "(b) cat", "B"),
        ("any", "B, A", "A, B"),
        ("text", "7.0", "7"),
        ("text", ".5", "5"),
        ("text", ".5.", "5"),
        ("number", "5", "5 %"),
        ("number", "1/3", "0.33"),
        ("number", "1/0", "0"),
        ("number", "007", "7"),
        ("number", "12 km", "12"),
        ("number", "$5", "\u20ac5"),
        ("number", "1e9999", "1e999"),
        ("choice", "A", "B"),
        ("choice", "B. dog", "B. cat"),
        ("choice", "dog", "B. cat"),
        ("choice", "A cat", "A"),
        ("choice", "u.s.", "U"),
        ("choice", "B or C", "B"),
        ("choice", "(B) or (C)", "B"),
        ("choice", "B) or C)", "B"),
        ("choice", "B. C. D.", "B"),
        ("choice", "B. cat or C. dog", "B"),
        ("choice", "(B) or C or D", "B"),
        ("choice", "B, C", "B"),
        ("choice", "A. cat B. dog C. bird D. fish", "A"),
        ("choice", "A. cat\n(B) dog\n(C) bird", "A"),
        ("any", "1\u3001234", "1234"),
        ("number", "1\u3001234", "1234"),
        ("set", "1\u3001234", "1234"),
        ("choice", "AB", "A"),
        ("choice", "**B**. cat", "A"),
        ("choice", "*bold*", "B"),
        ("set", "1,200 and 3,400", "1200; 34"),
        ("set", "A", "A, B"),
        ("set", "A, B, C", "A, B"),
        ("set", "A, A, B", "A, B"),
        ("set", "A, C", "A, B"),
        ("set", "...", "!!!"),
        ("set", "and", "..."),
        ("set", ",", "A"),
        ("set", "<5, 7", "5, 7"),
    ],
)
def test_different_of_a_type(kind: Kind, answer: str, expected: str) -> None:
    assert not is_right(answer, expected, kind=kind)
    assert not is_right(expected, answer, kind=kind)


@pytest.mark.parametrize("text", ["(" * 20_000 + ")" * 20_000, "*" * 40_000, "._'" * 20_000, "a' " * 20_000 + "'"])
def test_a_long_decoration_takes_no_time(text: str) -> None:
    assert is_right(text, text)
    assert not is_right(text, "1")


@pytest.mark.parametrize("kind", ["any", "number", "set"])
def test_a_long_answer_takes_no_time(kind: Kind) -> None:
    long = "9" * 20_000
    assert not is_right(f"{long}e999", "1", kind=kind)
    assert is_right(f"{long}.0" if kind == "number" else long, long, kind=kind)


def test_a_long_list_of_options_takes_no_time() -> None:
    assert is_right(f"B. {'d. ' * 20_000}none", "B", kind="choice")
    assert not is_right(f"B. {'d. ' * 20_000}", "B", kind="choice")


def near_miss(answer: str) -> str:
    """Its last letter or digit is another one."""
    place = max(idx for idx, character in enumerate(answer) if character.isalnum())
    return answer[:place] + ("1" if answer[place] == "7" else "7") + answer[place + 1 :]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_truth_is_worth_1_and_a_near_miss_0(family: str) -> None:
    for seed in range(2):
        for question in draw_scene(family, seed, "test" if seed % 2 else "train").questions:
            for spelling in (question.answer, *question.accept):
                assert is_right(spelling, question.answer, question.accept)
            assert not is_right(near_miss(question.answer), question.answer, question.accept)
    assert drawn_item(family, 0, "test", "").kind == "any"
