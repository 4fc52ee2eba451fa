"""When an answer counts as right.

The match is strict: an answer is right when it equals the expected one, or a spelling that the task accepts, after both
are brought into one form. The form forgets case, runs of spaces, punctuation at the ends, and how dashes and quotes are
typed; a number is compared by its value, so 1,234.50 equals 1234.5. It forgets no unit: "12 km" is right for "12" only
when the task accepts it. A currency sign may be left out but not be a wrong one.

A number with leading zeros is a code and is compared letter by letter. A comma only groups thousands; the text "4,50"
is no number, because it may mean 4.5 or 450.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"
_QUOTES = "\u2018\u2019\u201a\u00b4`"
_DOUBLE_QUOTES = "\u201c\u201d\u201e\u00ab\u00bb"
_SAME = str.maketrans(dict.fromkeys(_DASHES, "-") | dict.fromkeys(_QUOTES, "'") | dict.fromkeys(_DOUBLE_QUOTES, '"'))
_ENDS = " .,;:!?\"'()[]{}<>*_"
_AMOUNT = re.compile(
    r"(?P<before>[$€£¥]?)\s?(?P<sign>[+-]?)(?P<inner>[$€£¥]?)\s?"
    r"(?P<whole>0|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d*|)(?P<part>\.\d+)?\s?(?P<after>[$€£¥]?)"
)


@dataclass(frozen=True, kw_only=True)
class Amount:
    """A number as it was written."""

    value: Decimal
    currency: str
    """Its sign, or "" when there was none."""


def is_right(answer: str, expected: str, accept: Sequence[str] = ()) -> bool:
    """Whether `answer` says the same as `expected` or as one of the other right spellings in `accept`.

    An empty answer is never right; the expected answer itself always is.
    """
    return bool(answer.strip()) and any(says_the_same(answer, right) for right in (expected, *accept))


def says_the_same(left: str, right: str) -> bool:
    """Whether two texts are equal in the form described at the top of this module."""
    amounts = amount(left), amount(right)
    if amounts[0] is None or amounts[1] is None:
        return canonical(left) == canonical(right)
    known = {one.currency for one in amounts if one is not None and one.currency}
    return amounts[0].value == amounts[1].value and len(known) <= 1


def canonical(text: str) -> str:
    """The text in lower case, with single spaces, plain dashes and quotes, and no punctuation at its ends."""
    plain = _plain(text)
    return plain.strip(_ENDS) or plain


def amount(text: str) -> Amount | None:
    """The number that the text is, or None when it is anything else or more than a number."""
    found = _AMOUNT.fullmatch(_plain(text).strip("\"'*").rstrip(" .,;:!?"))
    if found is None or not (found["whole"] or found["part"]):
        return None
    signs = found["before"] + found["inner"] + found["after"]
    if len(signs) > 1:
        return None
    digits = found["whole"].replace(",", "") + (found["part"] or "")
    return Amount(value=Decimal(found["sign"] + digits), currency=signs)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).translate(_SAME).casefold().split())
