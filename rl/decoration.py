"""An answer without what is only put around it: spaces and punctuation at its ends, brackets, quotes and emphasis.

Brackets, quotes and emphasis go in pairs that enclose all of it and nothing else does: 5', <5 and C* say something, and
"a", "b" is two. A dot or comma before a digit belongs to the number.
"""

import re

_PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"} | {mark: mark for mark in "\"'*_"}
_LAYERS = 8
"""How many pairs may be around each other; both stars of ** are one each."""
_BEFORE = re.compile(r"(?:[ ;:!?]|\.{2,}|[.,](?!\d))+")
_AFTER = " .,;:!?"
_APOSTROPHE = re.compile(r"(?<=\w)'(?=\w)")


def undecorated(text: str) -> str:
    """The text inside; of quotes it knows the plain ones. Empty when there is nothing but punctuation."""
    text = _trimmed(text)
    for _ in range(_LAYERS):
        if not _is_enclosed(text):
            break
        text = _trimmed(text[1:-1])
    return text


def _trimmed(text: str) -> str:
    text = text.rstrip(_AFTER)
    start = _BEFORE.match(text)
    return text[start.end() :] if start else text


def _is_enclosed(text: str) -> bool:
    """Whether the first character and the last one are a pair."""
    opening, inside = text[:1], text[1:-1]
    closing = _PAIRS.get(opening)
    if closing is None or len(text) < 2 or not text.endswith(closing):
        return False
    if opening == closing:
        return opening not in _APOSTROPHE.sub("", inside).strip(opening)
    depth = 0
    for character in inside:
        depth += (character == opening) - (character == closing)
        if depth < 0:
            return False
    return True
