"""What the agent's graph needs from a model: messages in, sampled tokens out.

Our thinker, a model of transformers, one behind an address and a scripted fake in a test all satisfy `Reasoner`; the
graph cannot tell them apart. Messages have the OpenAI chat form. An image part is ``{"type": "image", "image": <PIL
image or path>}``; a "sha256" beside a PIL image names its pixels, which are then not hashed again. An assistant message
that was sampled carries its ``token_ids`` beside the text that they say as its ``content``: they are fed back as they
are, so a transcript is token-exact and nothing that a model wrote is ever encoded again (one that shows no ids reads
its text again, and so does one whose vocabulary gives these ids another text). A system message may carry
``tools``, JSON schemas as OpenAI's protocol has them, for a model whose `Dialect` takes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

Message = dict[str, Any]
Rounding = Literal["int8", "nf4"]
"""Of weights: int8 with a scale for each row, or NormalFloat4 with one for each 64."""
ROUNDED: dict[str, Rounding] = {":int8": "int8", ":nf4": "nf4"}
"""Behind the name of a model: how its weights are rounded when it is loaded (foveate.models.quantize)."""
TRANSFORMERS = "transformers:"
"""Before a folder: its model runs in transformers."""
ENDPOINT = ("http://", "https://")
"""How the address of a model begins that is served in OpenAI's protocol."""
CHARS_PER_TOKEN = 4
"""Of a model that does not show its tokens, nearly."""
OTHERS_TURN = "<tool_response>"
"""A model that writes this goes on to make up what its tool returns: its turn ends before it."""
RESPONSE = f"{OTHERS_TURN}\n", "\n</tool_response>"
"""What a tool's result stands between in a user's turn."""
StopReason = Literal["stop", "length", "cancelled"]
BoxSpace = Literal["relative_1000", "pixels", "unit"]
"""What the numbers x0, y0, x1, y1 of a box are: 0-1000 of each side of the image that it refers to, its pixels as the
model sees it, or 0-1."""


def name_parts(model: str) -> tuple[str, str, str]:
    """What stands before a model's name, the name, and what stands behind it."""
    prefix = TRANSFORMERS if model.startswith(TRANSFORMERS) else ""
    suffix = next((suffix for suffix in ROUNDED if model.endswith(suffix)), "")
    return prefix, model.removeprefix(prefix).removesuffix(suffix), suffix


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a model family writes tool calls, boxes and answers."""

    box_space: BoxSpace = "relative_1000"
    wants_system_prompt: bool = True
    """Whether the agent explains its tools in a system message (nano has learned them)."""
    takes_tools: bool = False
    """Whether the model's own chat template lays out the tools that a system message carries."""


NANO = Dialect(box_space="relative_1000", wants_system_prompt=False)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One continuation of a conversation, as sampled."""

    text: str
    """Decoded text, control tags such as ``<tool_call>`` included, the end-of-turn token left out. A thought that the
    chat template has opened begins with its tag."""
    token_ids: tuple[int, ...]
    """Ids as sampled, end-of-turn included when it was sampled. Empty for a model that does not show them. Of a turn
    that went on into `OTHERS_TURN`, those before it."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each sampled id under the sampling temperature 1 policy; same length as token_ids.
    Before top_k, top_p and repetition_penalty, which rollouts switch off: there ids are drawn from just these."""
    stop_reason: StopReason
    prompt_tokens: int
    """Tokens of the whole prompt, image tokens included; 0 where a provider does not say."""
    counted_tokens: int = 0
    """What a provider that shows no ids counts for the turn, hidden thoughts included; 0 where it does not say."""


@runtime_checkable
class Reasoner(Protocol):
    """A model that continues conversations."""

    name: str
    dialect: Dialect

    def image_tokens(self, width_px: int, height_px: int) -> int:
        """Number of tokens that an image of this size will take in the conversation; ImageError when it takes none."""
        ...

    def seen_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height at which the model sees an image of this size: those that a box in pixels refers to."""
        ...

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
        """Continue the conversation by one assistant turn.

        `on_text` receives each new piece of text as it is decoded; `should_stop` is asked after every token, by our
        thinker also before the first, and ends the turn with stop_reason "cancelled". Raises ModelError when it fails,
        InputError for what it cannot take, and what these two raise.
        """
        ...
