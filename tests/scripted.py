"""A model beyond the machine: it writes what a script says, one character a token."""

import threading
import time
from collections.abc import Callable, Sequence

from foveate.errors import ImageError
from foveate.models.reasoner import NANO, Dialect, Message, Sample, StopReason

HERMES = Dialect(box_space="pixels", wants_system_prompt=True)
WHOLE_TOKENS = 10_000


def zoom(image: int, *box: float, thought: str = "I look closer.") -> str:
    """A turn of nano that zooms."""
    numbers = ",".join(f"{value:g}" for value in box)
    call = f'{{"name":"zoom","arguments":{{"image":{image},"box":[{numbers}]}}}}'
    return f"<think>{thought}</think><tool_call>{call}</tool_call>"


def answer(text: str, thought: str = "I know it.") -> str:
    """A turn of nano that answers."""
    return f"<think>{thought}</think><answer>{text}</answer>"


class ScriptedReasoner:
    """Satisfies `Reasoner`. The n-th turn of a conversation is `turns[n]`, or what `turns(messages)` returns.

    It keeps no place in the script, so it may serve many conversations, threads and processes.
    """

    def __init__(
        self,
        turns: Sequence[str] | Callable[[Sequence[Message]], str],
        *,
        dialect: Dialect = NANO,
        tokens_per_image: int = 16,
        context_tokens: int = WHOLE_TOKENS,
        seconds_per_token: float = 0.0,
        shows_ids: bool = True,
    ) -> None:
        self.name = "scripted"
        self.dialect = dialect
        self.turns = turns
        self.seen: list[Sequence[Message]] = []
        self.seeds: list[int | None] = []
        self.temperatures: list[float] = []
        self.writing = threading.Event()
        self._tokens_per_image = tokens_per_image
        self._context_tokens = context_tokens
        self._seconds_per_token = seconds_per_token
        self._shows_ids = shows_ids

    def seen_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        return width_px, height_px

    def image_tokens(self, width_px: int, height_px: int) -> int:
        if max(width_px, height_px) > 200 * min(width_px, height_px):
            raise ImageError(f"picture is {width_px} x {height_px} px")
        return self._tokens_per_image

    def sample(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Sample:
        self.seen.append(messages)
        self.seeds.append(seed)
        self.temperatures.append(temperature)
        text = self._next(messages)
        written = ""
        for letter in text[: min(max_new_tokens, self._context_tokens)]:
            if should_stop and should_stop():
                return self._sample(written, "cancelled")
            if self._seconds_per_token:
                time.sleep(self._seconds_per_token)
            written += letter
            if on_text:
                on_text(letter)
            self.writing.set()
        return self._sample(written, "stop" if len(written) == len(text) else "length")

    def _next(self, messages: Sequence[Message]) -> str:
        if not isinstance(self.turns, Sequence):
            return self.turns(messages)
        turn: int = sum(message["role"] == "assistant" for message in messages)
        return self.turns[turn]

    def _sample(self, text: str, stop_reason: StopReason) -> Sample:
        ids = tuple(map(ord, text)) if self._shows_ids else ()
        logprobs = tuple(-0.5 for _ in ids)
        return Sample(text=text, token_ids=ids, logprobs=logprobs, stop_reason=stop_reason, prompt_tokens=7)
