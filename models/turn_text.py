"""The text of a turn while it is sampled: what of it is certain, and where somebody else's turn would begin in it."""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from foveate.models.reasoner import OTHERS_TURN

Decode = Callable[[Sequence[int]], str]
_TAG = re.compile(r"<(?=/?tool_response>|\|)")


def inert(text: str, tags: re.Pattern[str] = _TAG) -> str:
    """Text of a user or a tool that ends no tool's result and no turn: a mark of no width breaks the tags in it.

    Where nothing is known of a model these are the result's and Qwen's; other families' control tokens, such as [INST],
    stay. For a model whose server or processor takes text alone: where ids are made here, text never becomes such a
    token.
    """
    return tags.sub(lambda found: f"{found[0][0]}\u200b{found[0][1:]}", text)


def tags_of(tokens: Iterable[str], but: Container[str] = ()) -> re.Pattern[str]:
    """What `inert` breaks where these are a tokenizer's own tokens, which it finds in any text; never empty."""
    wanted = (one for one in tokens if len(one) > 1 and not one.isspace() and one not in but)
    return re.compile("|".join(map(re.escape, sorted(wanted, key=len, reverse=True))) or r"(?!)")


def with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A value as JSON has them, such as a tool's schema, with each text in it, also of keys, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {with_texts(key, change): with_texts(inner, change) for key, inner in value.items()}
    return [with_texts(inner, change) for inner in value] if isinstance(value, list | tuple) else value


def before_others_turn(token_ids: Sequence[int], decode: Decode) -> int | None:
    """How many of the ids stay when the last one completes OTHERS_TURN, None when it does not.

    All before it, and one at least, so that a turn that was sampled is told from one that nobody sampled: a token that
    holds the end of something else besides, such as "><", stays. Only a short tail is decoded, and but a token of most.
    """
    if OTHERS_TURN[-1] not in decode(token_ids[-1:]):
        return None
    first = max(0, len(token_ids) - len(OTHERS_TURN))  # a token is a character of it at least
    tail = token_ids[first:]
    begins = [number for number in range(len(tail)) if OTHERS_TURN in decode(tail[number:])]
    if not begins:
        return None
    return max(1, first + begins[-1] + (not decode(tail[begins[-1] :]).startswith(OTHERS_TURN)))


class Telling:
    """Hands on a turn's text in pieces, each as soon as it is certain; joined they are the whole text."""

    def __init__(self, on_text: Callable[[str], None] | None, *, mark: str = "") -> None:
        """`mark` is not handed on, nor is what may be its beginning until it is known not to be."""
        self.on_text, self.mark, self.told = on_text, mark, 0

    def so_far(self, text: str) -> None:
        """The text up to now; its last characters may still lack bytes, or be the beginning of the mark."""
        if not text.endswith("\ufffd"):
            held = next((n for n in range(len(self.mark) - 1, 0, -1) if text.endswith(self.mark[:n])), 0)
            self.whole(text[: len(text) - held])

    def whole(self, text: str) -> None:
        """The text that is certain; also at the end, all of it."""
        if self.on_text is not None and len(text) > self.told:
            new, self.told = text[self.told :], len(text)
            self.on_text(new)
