"""When an answer counts as right, by the type of the answer.

The match is strict: an answer is right when it equals the expected one, or a spelling that the task accepts. What equal
means is the task's to say:

    any      numbers by value as they are commonly written, all else as text; what a task that says nothing has
    text     after both are brought into one form, which forgets case, runs of spaces, how dashes and quotes are typed,
             punctuation at the ends, and brackets, quotes and emphasis around all of it (foveate.rl.decoration)
    number   as in `any`, and 1/2, 1e3 and 50 % are numbers, too
    choice   by the letter of an option, "B", "(b)" or "B. cat"; if both say the option's text, that must agree too
    set      item by item in any order, each as often, items compared as in `any`
    formula  as formulas in LaTeX, by what they mean (foveate.rl.formula)

None forgets a unit: "12 km" is right for "12" only when the task accepts it. A currency sign may be left out but not be
a wrong one. A number with leading zeros is a code and is compared letter by letter. A comma only groups thousands; the
text "4,50" is no number, because it may mean 4.5 or 450.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import Literal

from foveate.rl.decoration import undecorated
from foveate.rl.formula import is_same_formula

Kind = Literal["any", "text", "number", "choice", "set", "formula"]
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"
_QUOTES = "\u2018\u2019\u201a\u00b4`"
_DOUBLE_QUOTES = "\u201c\u201d\u201e\u00ab\u00bb"
_WIDE = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {
    "\uffe5": "¥",
    "\u3002": ".",
    "\u3001": ", ",
}
"""Letters, digits and punctuation as wide as Chinese characters, which answers in such texts are written with."""
_SAME = str.maketrans(
    dict.fromkeys(_DASHES, "-") | dict.fromkeys(_QUOTES, "'") | dict.fromkeys(_DOUBLE_QUOTES, '"') | _WIDE
)
_SIGN = "[$€£¥₹₩₽₺₪₫฿₴₦₱]"
_BEFORE = rf"(?P<before>{_SIGN}?)\s?(?P<sign>[+-]?)(?P<inner>{_SIGN}?)\s?"
_DIGITS = r"(?P<whole>0|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d*|)(?P<part>\.\d+)?"
_MORE = r"(?:e(?P<power>[+-]?\d{1,3}))?(?:\s?/\s?(?P<under>[1-9]\d*))?(?:\s?(?P<percent>%))?"
_AFTER = rf"\s?(?P<after>{_SIGN}?)"
_AMOUNT = re.compile(_BEFORE + _DIGITS + _AFTER)
_NUMBER = re.compile(_BEFORE + _DIGITS + _MORE + _AFTER)
_OPTION = re.compile(
    r"[*_]*(?:\((?P<inside>[a-z])\)[*_]*[.:]?|(?P<bare>[a-z])[*_]*(?:[.):]+|$))[*_]*(?:\s+(?P<text>.*)|$)"
)
_BETWEEN = re.compile(r",\s*and\s+|\s+and\s+|,")
_BETWEEN_NUMBERS = re.compile(r",\s*and\s+|\s+and\s+|,(?!\d{3}(?!\d))|(?<!\d),")
"""The same where a comma groups thousands."""
_BETWEEN_LONG = re.compile(r";\s*(?:and\s+)?")


@dataclass(frozen=True, kw_only=True)
class Amount:
    """A number as it was written."""

    value: Fraction
    currency: str
    """Its sign, or "" when there was none."""


def is_right(answer: str, expected: str, accept: Sequence[str] = (), kind: Kind = "any") -> bool:
    """Whether `answer` says the same as `expected` or as one of the other right spellings in `accept`.

    An empty answer is never right; the expected answer itself always is.
    """
    return bool(answer.strip()) and any(SAME[kind](answer, right) for right in (expected, *accept))


def says_the_same(left: str, right: str) -> bool:
    """Whether two texts are equal as amounts, if both are, else as texts."""
    return _is_same(left, right, amount)


def is_same_text(left: str, right: str) -> bool:
    """Whether two texts have one form."""
    return canonical(left) == canonical(right)


def is_same_number(left: str, right: str) -> bool:
    """Whether two texts are equal as numbers, if both are, else as texts."""
    return _is_same(left, right, number)


_BETWEEN_LETTERS = re.compile(r"[\s,/&]+")
_LETTER = re.compile(r"\(?[a-z][).]?")
_JOINED = re.compile(r"(?:or|and)\b|[,/&]")
_JOINED_LETTER = re.compile(r"(?:\b(?:or|and)\b|[,/&])\s*\(?[a-z][).](?:\s|$)")
_LETTER_IN_TEXT = re.compile(r"(?<=\S)\s\(?([a-z])[).]\s")


def is_same_choice(left: str, right: str) -> bool:
    """Whether two answers name one option: by its letter, or by its text when one of them has no letter."""
    one, other = _option(left), _option(right)
    if one[0] and other[0]:
        alike = one[1] == other[1] if one[1] and other[1] else not _names_another(one[0], one[1] or other[1])
        return one[0] == other[0] and alike
    return one[1] == other[1]


def _names_another(letter: str, says: str) -> bool:
    """Whether what stands behind the letter of an option is other options' letters, or has one with its text.

    That is one behind "or", "and" or a comma, or the next two of the alphabet; other initials in a text are of names.
    """
    words = [word for word in _BETWEEN_LETTERS.split(says) if word not in ("", "or", "and")]
    if words and all(map(_LETTER.fullmatch, words)):  # "A and B" may be the text of an option
        return bool(_JOINED.match(says)) or any(word[-1] in ".)" for word in words)
    following = {chr(ord(letter) + 1), chr(ord(letter) + 2)}
    return bool(_JOINED_LETTER.search(says)) or following <= set(_LETTER_IN_TEXT.findall(says))


def is_same_set(left: str, right: str) -> bool:
    """Whether two lists have the same items, each as often; a semicolon divides them, or else commas and "and".

    Where neither has an item they are compared as texts. "1,200 and 7" is two items or three, as the other list has it.
    """
    if not _items(left, _BETWEEN) and not _items(right, _BETWEEN):
        return is_same_text(left, right)
    readings = product(*([_items(text, between) for between in (_BETWEEN, _BETWEEN_NUMBERS)] for text in (left, right)))
    return any(len(items) == len(rest) and _pairs_off(items, rest) for items, rest in readings)


def _pairs_off(items: Sequence[str], others: Sequence[str]) -> bool:
    """Whether each item finds one of the others that says the same, no two the same one (Kuhn's augmenting paths)."""
    fits = [[idx for idx, other in enumerate(others) if says_the_same(item, other)] for item in items]
    holder: dict[int, int] = {}

    def finds(number: int, tried: set[int]) -> bool:
        for idx in fits[number]:
            if idx not in tried:
                tried.add(idx)
                if idx not in holder or finds(holder[idx], tried):
                    holder[idx] = number
                    return True
        return False

    return all(finds(number, set()) for number in range(len(items)))


SAME: Mapping[Kind, Callable[[str, str], bool]] = {
    "any": says_the_same,
    "text": is_same_text,
    "number": is_same_number,
    "choice": is_same_choice,
    "set": is_same_set,
    "formula": is_same_formula,
}
"""What equal means."""


def canonical(text: str) -> str:
    """The text in lower case, with single spaces, plain dashes and quotes, and no decoration if anything is left."""
    plain = _plain(text)
    return undecorated(plain) or plain


def amount(text: str) -> Amount | None:
    """The number that the text is, or None when it is anything else or more than a number."""
    return _read(_AMOUNT.fullmatch(canonical(text)))


def number(text: str) -> Amount | None:
    """The same, which may also have an exponent, be a fraction or a percentage (a hundredth as much)."""
    found = _NUMBER.fullmatch(canonical(text))
    read = _read(found)
    if found is None or read is None:
        return None
    scale = Fraction(10) ** int(found["power"] or 0) / Fraction(Decimal(found["under"] or 1))
    return Amount(value=read.value * scale / (100 if found["percent"] else 1), currency=read.currency)


def _read(found: re.Match[str] | None) -> Amount | None:
    if found is None or not (found["whole"] or found["part"]):
        return None
    signs = found["before"] + found["inner"] + found["after"]
    if len(signs) > 1:
        return None
    digits = found["whole"].replace(",", "") + (found["part"] or "")
    return Amount(value=Fraction(Decimal(found["sign"] + digits)), currency=signs)


def _is_same(left: str, right: str, read: Callable[[str], Amount | None]) -> bool:
    one, other = read(left), read(right)
    if one is None or other is None:
        return is_same_text(left, right)
    known = {signs for signs in (one.currency, other.currency) if signs}
    return one.value == other.value and len(known) <= 1


def _option(text: str) -> tuple[str, str]:
    """The letter and the text of an option, "" for what is not said."""
    found = _OPTION.fullmatch(canonical(text))
    if found is None:
        return "", canonical(text)
    return found["inside"] or found["bare"], canonical(found["text"] or "")


def _items(text: str, between: re.Pattern[str]) -> list[str]:
    parts = (_BETWEEN_LONG if ";" in text else between).split(undecorated(_plain(text)))
    return [part for part in map(str.strip, parts) if part]


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).translate(_SAME).casefold().split())
