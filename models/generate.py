"""A thinker as the agent's graph sees it: messages in, one sampled turn out."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from foveate.errors import InputError, ModelError, named_line
from foveate.models.engine import Engine, Request
from foveate.models.published.dialects import DIALECTS
from foveate.models.published.template import ChatTemplate
from foveate.models.reasoner import NANO, Message, Sample
from foveate.models.thinker import Thinker
from foveate.models.tokenizer import TextCodec

HEADER = 16
"""Tokens within which a template begins a turn."""
THOUGHTS = ("<think>", "</think>"), ("◁think▷", "◁/think▷")
"""What opens a thought and what closes it."""


class ThinkerReasoner:
    """A thinker as the agent's graph sees it."""

    def __init__(
        self,
        thinker: Thinker,
        *,
        name: str | None = None,
        num_slots: int = 8,
        truncates: bool = True,
        shortens: bool = True,
    ) -> None:
        """`name`: in errors and settings; the family's where none is given.

        `truncates`: whether the model's top_k, top_p and repetition_penalty count where a token is chosen.

        `shortens`: whether a turn ends at the longest that the model takes and where its context is full, as an agent
        wants it; else it may be as long as it is asked to be, and what the context cannot hold is refused.
        """
        self.thinker, self.name, self.shortens = thinker, name or thinker.config.model_type, shortens
        chat, published = thinker.processor.chat, DIALECTS.get(thinker.config.model_type)
        takes_tools = isinstance(chat, ChatTemplate) and chat.takes_tools
        self.dialect = replace(published, takes_tools=takes_tools) if published else NANO
        self.engine = Engine(thinker, num_slots, truncates=truncates, heeds_others=published is not None)

    def with_slots(self, num_slots: int) -> "Self":
        """The same over the same thinker, with a cache for so many conversations at once."""
        other = copy(self)
        other.engine = self.engine.with_slots(num_slots)
        return other

    def image_tokens(self, width_px: int, height_px: int) -> int:
        """See Reasoner."""
        return self.thinker.processor.image_tokens(width_px, height_px)

    def seen_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """See Reasoner."""
        return self.thinker.processor.seen_size(width_px, height_px)

    def forget(self, *, tower: bool = True) -> None:
        """Call when weights have changed, those of the tower too or not, and nothing is being sampled.

        What the cache holds is of the old ones.
        """
        self.engine.forget(tower=tower)

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
        """See Reasoner. Calls from several threads are decoded in one batch.

        Raises InputError when the conversation, or the turn that it is asked for, is longer than the model's context,
        ModelError for what torch cannot do, such as find memory, and what `on_text` and `should_stop` raise.
        """
        transcript = self.thinker.processor(messages, generate=True)
        if not len(transcript):
            raise InputError("got a conversation without a message, wanted one at least")
        generator = None if seed is None else torch.Generator().manual_seed(seed + len(transcript))
        raised: list[Exception] = []
        request = Request(
            transcript=transcript,
            max_new_tokens=self._longest(max_new_tokens, len(transcript)),
            temperature=temperature,
            generator=generator,
            on_text=_noting(on_text, raised),
            should_stop=_noting(should_stop, raised),
            begun=begun_thought(transcript.token_ids, self.thinker.processor.codec),
        )
        try:
            self.engine.run(request)
        except (RuntimeError, MemoryError, IndexError) as error:
            if error in raised:
                raise
            raise ModelError(f"{self.name} failed while it sampled: {named_line(error)}") from error
        assert request.stop_reason is not None
        return Sample(
            text=request.text,
            token_ids=tuple(request.token_ids),
            logprobs=tuple(request.logprobs),
            stop_reason=request.stop_reason,
            prompt_tokens=len(transcript),
        )

    def _longest(self, asked: int, prompt_tokens: int) -> int:
        """How many tokens the turn may have."""
        config = self.thinker.config
        room = config.context_tokens - prompt_tokens if config.context_tokens else asked
        if room < (min(asked, 1) if self.shortens else asked):
            raise InputError(
                f"max_new_tokens is {asked} behind {prompt_tokens} tokens of the conversation, wanted at most "
                f"{max(room, 0)}: the model's context holds {config.context_tokens}; ask for less, or begin anew"
            )
        return min(asked, room, config.max_turn_tokens or asked) if self.shortens else asked


def begun_thought(token_ids_T: Tensor, codec: TextCodec) -> str:
    """The opening tag of a thought, and what follows it, when a template has begun the next turn with one."""
    tail = token_ids_T[-HEADER:].tolist()
    written = [place for place, index in enumerate(tail) if index in codec.never_sampled or index in codec.ends]
    header = codec.decode(tail[written[-1] + 1 :] if written else tail)
    open_tags = (opening for opening, closing in THOUGHTS if opening in header and closing not in header)
    return next((header[header.index(opening) :] for opening in open_tags), "")


def _noting(callback: Callable[..., Any] | None, raised: list[Exception]) -> Callable[..., Any] | None:
    """The callback, whose errors are noted: they are its caller's, and not the model's."""
    if callback is None:
        return None

    def called(*arguments: str) -> Any:
        try:
            return callback(*arguments)
        except Exception as error:
            raised.append(error)
            raise

    return called
