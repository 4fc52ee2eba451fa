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
from foveate.models.chat import Frames, Picture, Piece, VideoPart, checked_role, content_of, written_turn
from foveate.models.config import ThinkerConfig
from foveate.models.reasoner import Message
from foveate.models.tokenizer import TextCodec
from foveate.models.video import read_clip

OPEN, CLOSE = "\ue0f0", "\ue0f1"
"""Characters for private use that stand around the number of a placeholder."""
VISION = "<|vision_start|>", "<|vision_end|>"
"""Around a video in the templates of the families that see them."""
RESPONSE = "<tool_response>\n", "\n</tool_response>"
"""Around a tool's result, in a user turn, where the template knows no tools."""


class ChatTemplate:
    """See foveate.models.chat.Chat."""

    def __init__(self, source: str, codec: TextCodec, config: ThinkerConfig) -> None:
        """`source` is the template. Raises CheckpointError when it is none."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        self.codec, self.config = codec, config
        self.knows_tools = "tool_response" in source
        try:
            self.template = environment.from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"the chat template is not valid: {error}") from error
        self.video = f"{VISION[0]}{codec.controls.video}{VISION[1]}"
        controls = "|".join(map(re.escape, [self.video, *sorted(codec.ids, key=len, reverse=True)]))
        self.cuts = re.compile(f"({controls}|{OPEN}\\d+{CLOSE})")

    def pieces(self, messages: Sequence[Message], *, generate: bool) -> Iterator[Piece]:
        """See Chat."""
        texts: list[str | Message] = []
        seen: list[Picture | VideoPart] = []
        forms = [self._form(message, texts, seen) for message in messages]
        try:
            rendered = self.template.render(messages=forms, add_generation_prompt=generate)
        except TemplateError as error:
            raise InputError(f"the chat template refuses the conversation: {error}") from error
        pictures = iter([part for part in seen if not isinstance(part, VideoPart)])
        videos = iter([part for part in seen if isinstance(part, VideoPart)])
        yield from self._laid_out(self.cuts.split(rendered), texts, pictures, videos)

    def _form(self, message: Message, texts: list[str | Message], seen: list[Picture | VideoPart]) -> dict[str, Any]:
        """A message as the template takes it, its texts, pictures and videos put aside."""
        role = checked_role(message)
        if role == "assistant":
            return {"role": role, "content": _put_aside(message, texts)}
        parts: list[dict[str, str]] = []
        for part in content_of(message):
            if isinstance(part, str):
                parts.append({"type": "text", "text": _put_aside(part, texts)})
            else:
                parts.append({"type": "video" if isinstance(part, VideoPart) else "image"})
                seen.append(part)
        if role == "tool" and not self.knows_tools:
            role, (opening, closing) = "user", RESPONSE
            parts = [{"type": "text", "text": opening}, *parts, {"type": "text", "text": closing}]
        if len(parts) == 1 and parts[0]["type"] == "text":
            return {"role": role, "content": parts[0]["text"]}
        return {"role": role, "content": parts}

    def _laid_out(
        self,
        cut: list[str],
        texts: list[str | Message],
        pictures: Iterator[Picture],
        videos: Iterator[VideoPart],
    ) -> Iterator[Piece]:
        """Rendered text, cut at control tokens and placeholders, as ids, pictures and frames."""
        codec, run, turn_is_closed = self.codec, "", False
        for piece in cut:
            if piece == self.video:
                for words, frames in self._frames(next(videos)):
                    yield codec.encode(run + words), False
                    yield [codec.ids[VISION[0]]], False
                    yield frames, False
                    yield [codec.ids[VISION[1]]], False
                    run = ""
                continue
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
        for part in (*pictures, *videos):
            raise InputError(f"the chat template of {self.config.model_type} has no place for {part!r:.80}")

    def _frames(self, part: VideoPart) -> Iterator[tuple[str, Frames]]:
        """A video's frames, whole or patch in time by patch in time, and the words before each."""
        video, depth = self.config.video, self.config.vision.temporal_patch_size
        if video is None:
            raise InputError(f"{self.config.model_type} sees no videos; wanted 'text' or 'image' parts")
        clip = read_clip(part.source, part.fps, video, depth)
        count = len(clip.frames)
        if video.time != "text":
            step = clip.step_s * depth * video.positions_per_second if video.time == "positions" else 1.0
            yield "", Frames(clip.frames, count, step)
            return
        for start in range(0, count, depth):
            middle_s = (clip.seconds[start] + clip.seconds[start + depth - 1]) / 2
            yield f"<{middle_s:.1f} seconds>", Frames(clip.frames[start : start + depth], count, 1.0)


def _put_aside(text: str | Message, texts: list[str | Message]) -> str:
    texts.append(text)
    return f"{OPEN}{len(texts) - 1}{CLOSE}"


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
