"""The one place that formats what a model sees.

The agent and the makers of training data both build conversations from these functions, so what nano was taught and
what it meets in a run are the same strings. A conversation is a list of messages in the OpenAI chat form:

    question      {"role": "user", "content": [image part..., text part]}
    model's turn  {"role": "assistant", "content": text, "token_ids": [...]}
    observation   {"role": "tool", "name": tool, "tool_call_id": id, "content": [text part, image part?]}

An image part has two forms: with pixels, ``{"type": "image", "image": <PIL image>}``, for a model or a trainer; and by
reference, ``{"type": "image", "sha256": ...}``, in the graph's state. `resolve` turns the second into the first.

Text of users and tools is never escaped here: it travels in text parts, and a processor encodes text parts without
special tokens. Only an assistant's content may hold control tags, and the system message that shows them to models of
other families; `render_turn` refuses them inside a thought or an answer, and writes them inside a call's strings as
JSON escapes.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from foveate.models.reasoner import BoxSpace, Dialect, Message

CONTROL_TAGS = tuple(
    f"<{slash}{tag}>" for tag in ("think", "tool_call", "tool_response", "answer") for slash in ("", "/")
)
"""The special tokens of nano's text, opening and closing."""

Part = dict[str, Any]
Picture = Image.Image | str
"""Pixels, or the sha256 under which an image store holds them."""

_BOX_WORDS: Mapping[BoxSpace, str] = {
    "relative_1000": "integers from 0 to 1000 relative to the width and height of that image",
    "pixels": "pixels of that image",
    "unit": "fractions from 0 to 1 of the width and height of that image",
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A tool call as a model writes it."""

    name: str
    arguments: dict[str, Any]
    box_space: BoxSpace | None = None
    """For a zoom: the space of ``arguments["box"]`` when the wire format fixes it, else None (the dialect's)."""
    observation: int | None = None
    """For a zoom: the image is the crop of this number, from 1, among all crops; None where "image" says which."""


class DescribedTool(Protocol):
    """What the system message tells about a tool."""

    @property
    def name(self) -> str:
        """What the model writes to call it."""
        ...

    @property
    def description(self) -> str:
        """What it does and returns."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON schema of the arguments object."""
        ...


def text_part(text: str) -> Part:
    """A text part; what cannot be UTF-8 (lone surrogates) becomes "?"."""
    return {"type": "text", "text": clean_text(text)}


def image_part(picture: Picture) -> Part:
    """An image part with pixels, or by reference for a sha256."""
    return {"type": "image", "sha256": picture} if isinstance(picture, str) else {"type": "image", "image": picture}


def question_message(question: str, images: Sequence[Picture] = ()) -> Message:
    """A user's question with its new pictures; a follow-up question has only what is new."""
    return {"role": "user", "content": [*map(image_part, images), text_part(question)]}


def assistant_message(text: str, token_ids: Sequence[int] = ()) -> Message:
    """A model's turn; `token_ids` as sampled, left out when the model does not show them."""
    message: Message = {"role": "assistant", "content": clean_text(text)}
    if token_ids:
        message["token_ids"] = list(token_ids)
    return message


def observation_message(call_id: str, name: str, text: str, image: Picture | None = None) -> Message:
    """What tool `name` returned for call `call_id`: text, then the image it made."""
    content = [text_part(text)] if image is None else [text_part(text), image_part(image)]
    return {"role": "tool", "name": name, "tool_call_id": call_id, "content": content}


def image_label(index: int) -> str:
    """The text that comes before a tool's new image: its number in the conversation."""
    return f"image {index}"


def render_call(name: str, arguments: Mapping[str, Any]) -> str:
    """``<tool_call>{"name":...,"arguments":...}</tool_call>`` in compact JSON; control tags in strings are escaped."""
    body = json.dumps({"name": name, "arguments": dict(arguments)}, separators=(",", ":"), ensure_ascii=False)
    for tag in CONTROL_TAGS:
        body = body.replace(tag, "\\u003c" + tag[1:])
    return f"<tool_call>{body}</tool_call>"


def render_turn(thought: str, outcome: Call | str) -> str:
    """A whole turn of an oracle: a thought, then a call or (for a str) the answer.

    Raises ValueError when thought or answer hold a control tag: the turn would not parse back.
    """
    act = (
        f"<answer>{_untagged(outcome)}</answer>"
        if isinstance(outcome, str)
        else render_call(outcome.name, outcome.arguments)
    )
    return f"<think>{_untagged(thought)}</think>{act}"


def system_message(tools: Iterable[DescribedTool], dialect: Dialect) -> Message:
    """Explains the tools to models that have not learned them from us.

    In the Hermes form; a model whose own chat template lays them out is handed their schemas beside the text.
    """
    schemas = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
        }
        for tool in tools
    ]
    answer = (
        "Think inside <think></think>. When you know the answer, write it inside <answer></answer>, short and alone."
    )
    if not schemas:
        return {"role": "system", "content": answer}
    lines = clean_text("\n".join(json.dumps(schema, ensure_ascii=False) for schema in schemas))
    intro = (
        "You answer questions about pictures. Details may be too small to read at first: use the tools to look again.\n"
        "Images are numbered 0, 1, 2, ... in order of appearance. "
        f"A box is [x0, y0, x1, y1] in {_BOX_WORDS[dialect.box_space]}.\n\n"
    )
    if dialect.takes_tools:
        return {"role": "system", "content": intro + answer, "tools": [*map(json.loads, lines.split("\n"))]}
    own = (
        f"# Tools\n<tools>\n{lines}\n</tools>\n\n"
        "To call a tool, write one JSON object inside tool_call tags and then stop:\n"
        '<tool_call>{"name": "...", "arguments": {...}}</tool_call>\n\n'
    )
    return {"role": "system", "content": intro + own + answer}


def resolve(messages: Iterable[Message], find: Callable[[str], Image.Image]) -> list[Message]:
    """The same messages with pixels beside references; `find` maps a sha256 to its image."""
    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [_with_pixels(part, find) for part in message["content"]]}
        for message in messages
    ]


def clean_text(text: str) -> str:
    """The text with everything that UTF-8 cannot hold replaced by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _with_pixels(part: Part, find: Callable[[str], Image.Image]) -> Part:
    return {**part, "image": find(part["sha256"])} if "sha256" in part else part


def _untagged(text: str) -> str:
    for tag in CONTROL_TAGS:
        if tag in text:
            raise ValueError(
                f"got {tag} inside a thought or an answer, wanted text without control tags: {text[:80]!r}"
            )
    return text
