"""An answer is right when it says the same as the expected one: numbers by value, all else letter by letter."""

import pytest

from foveate.rl.reward import is_right


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
        ("-5", "5"),
        ("4,50", "4.50"),
        ("4,50", "450"),
        ("12,34,567", "1234567"),
        ("5", "0.5"),
        ("1/3/05", "01/03/05"),
        ("The answer is 7", "7"),
        ("7 8", "78"),
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
