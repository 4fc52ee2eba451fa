"""Text from outside can steer neither a terminal nor the direction of reading, and loses no ordinary character."""

import unicodedata

import pytest

from foveate.agent.plain import one_line, printable


def test_ordinary_text_of_any_script_stays() -> None:
    text = "naïve 日本語 עברית العربية 👩‍🔬 €\n\ttab"
    assert printable(text) == text


@pytest.mark.parametrize("point", [*range(0x20), 0x7F, *range(0x80, 0xA0), 0x200F, 0x202E, 0x2066, 0x2028, 0xD800])
def test_steering_characters_are_shown_as_replacements(point: int) -> None:
    shown = printable(f"a{chr(point)}b")
    assert shown in ("a\ufffdb", "a\tb", "a\nb")
    assert all(unicodedata.category(sign) != "Cc" for sign in shown.replace("\t", "").replace("\n", ""))


def test_windows_line_ends_are_line_ends() -> None:
    assert printable("a\r\nb") == "a\nb"


def test_one_line_is_one_line_of_the_length_asked_for() -> None:
    assert one_line(" a\n\n b\x1b[2J ") == "a b\ufffd[2J"
    assert one_line("x" * 200, 10) == "xxxxxxxxx…"
