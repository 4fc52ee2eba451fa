"""A thinker as the agent's graph sees it: messages in, one sampled turn out."""

from collections.abc import Callable, Sequence

import torch

from foveate.models.engine import Engine, Request
from foveate.models.published.dialects import DIALECTS
from foveate.models.reasoner import NANO, Message, Sample
from foveate.models.thinker import Thinker


class ThinkerReasoner:
    """A thinker as the agent's graph sees it."""

    def __init__(self, thinker: Thinker, *, name: str = "nano", num_slots: int = 8, truncates: bool = True) -> None:
        """`truncates`: whether the model's top_k and top_p count where tokens are drawn."""
        self.thinker = thinker
        self.name = name
        self.dialect = DIALECTS.get(thinker.config.model_type, NANO)
        self.engine = Engine(thinker, num_slots, truncates=truncates)

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
        """See Reasoner. Calls from several threads are decoded in one batch."""
        transcript = self.thinker.processor(messages, generate=True)
        generator = None if seed is None else torch.Generator().manual_seed(seed + len(transcript))
        request = self.engine.run(
            Request(
                transcript=transcript,
                max_new_tokens=min(max_new_tokens, self.thinker.config.max_turn_tokens),
                temperature=temperature,
                generator=generator,
                on_text=on_text,
                should_stop=should_stop,
            )
        )
        assert request.stop_reason is not None
        return Sample(
            text=self.thinker.processor.codec.decode(request.token_ids),
            token_ids=tuple(request.token_ids),
            logprobs=tuple(request.logprobs),
            stop_reason=request.stop_reason,
            prompt_tokens=len(transcript),
        )
