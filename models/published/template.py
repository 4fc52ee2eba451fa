"""A checkpoint's own chat template, rendered so that no text of a message can become a control token.

The template (Jinja, in a sandbox) sees a placeholder for each text. What comes out is cut at control tokens, which only
the template can have written, and between them the texts are put back and encoded together with the template's own
words, as plain text: ids are those of transformers for every text that holds no control token, and safe for the others.
An assistant's turn is encoded by itself, since that is how it was, or would be, sampled.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from foveate.errors import CheckpointError, InputError
from foveate.models.chat import Picture, Piece, checked_role, content_of, written_turn
from foveate.models.reasoner import Message
from foveate.models.tokenizer import TextCodec

OPEN, CLOSE = "\ue0f0", "\ue0f1"
"""Characters for private use that stand around the number of a placeholder."""
RESPONSE = "<tool_response>\n", "\n</tool_response>"
"""Around a tool's result, in a user turn, where the template knows no tools."""


class ChatTemplate:
    """See foveate.models.chat.Chat."""

    def __init__(self, source: str, codec: TextCodec) -> None:
        """`source` is the template. Raises CheckpointError when it is none."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        self.codec = codec
        self.knows_tools = "tool_response" in source
        try:
            self.template = environment.from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"the chat template is not valid: {error}") from error
        controls = "|".join(map(re.escape, sorted(codec.ids, key=len, reverse=True)))
        self.cuts = re.compile(f"({controls}|{OPEN}\\d+{CLOSE})")

    def pieces(self, messages: Sequence[Message], *, generate: bool) -> Iterator[Piece]:
        """See Chat."""
        texts: list[str | Message] = []
        pictures: list[Picture] = []
        forms = [self._form(message, texts, pictures) for message in messages]
        try:
            rendered = self.template.render(messages=forms, add_generation_prompt=generate)
        except TemplateError as error:
            raise InputError(f"the chat template refuses the conversation: {error}") from error
        yield from self._laid_out(self.cuts.split(rendered), texts, iter(pictures))

    def _form(self, message: Message, texts: list[str | Message], pictures: list[Picture]) -> dict[str, Any]:
        """A message as the template takes it, its texts and pictures put aside."""
        role = checked_role(message)
        if role == "assistant":
            return {"role": role, "content": _put_aside(message, texts)}
        parts: list[dict[str, str]] = []
        for part in content_of(message):
            if isinstance(part, str):
                parts.append({"type": "text", "text": _put_aside(part, texts)})
            else:
                parts.append({"type": "image"})
                pictures.append(part)
        if role == "tool" and not self.knows_tools:
            role, (opening, closing) = "user", RESPONSE
            parts = [{"type": "text", "text": opening}, *parts, {"type": "text", "text": closing}]
        if len(parts) == 1 and parts[0]["type"] == "text":
            return {"role": role, "content": parts[0]["text"]}
        return {"role": role, "content": parts}

    def _laid_out(self, cut: list[str], texts: list[str | Message], pictures: Iterator[Picture]) -> Iterator[Piece]:
        """Rendered text, cut at control tokens and placeholders, as ids and pictures."""
        codec, run, turn_is_closed = self.codec, "", False
        for piece in cut:
            text = texts[int(piece[1:-1])] if piece.startswith(OPEN) else piece
            if isinstance(text, str) and piece not in codec.ids:
                run += text
                continue
            yield codec.encode(run), False
            run = ""
            if not isinstance(text, str):
                yield from written_turn(text, codec)
            elif piece == codec.controls.image:
                yield next(pictures), False
            elif not (turn_is_closed and codec.ids[piece] == codec.end_of_turn):
                yield [codec.ids[piece]], False
            turn_is_closed = not isinstance(text, str)
        yield codec.encode(run), False


def _put_aside(text: str | Message, texts: list[str | Message]) -> str:
    texts.append(text)
    return f"{OPEN}{len(texts) - 1}{CLOSE}"


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
