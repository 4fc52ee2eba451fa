"""A checkpoint's own chat template, rendered so that no text of a user or a tool can become a control token.

The template (Jinja, in a sandbox) sees a placeholder for each text. What comes out is cut at control tokens, which only
the template can have written (or a system message or a turn, where they are the tags of calls and thoughts). Between
them the texts are put back and encoded together with the template's own words, as plain text: ids are those of
transformers for every text that holds no control token, and safe for the others.

A turn that was sampled stands behind what the template wrote when it was asked for that turn (which may have begun a
thought), whatever the template would make of it afterwards: a conversation begins with all that its model has seen and
said. A turn of which only the text is known goes through the template, which may leave out what was thought; what it
writes behind the words with which it asks for a turn counts as said.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from jinja2 import TemplateError

from foveate.errors import CheckpointError, InputError
from foveate.models.chat import Frames, Picture, Piece, VideoPart, checked_role, content_of, turn_text, written_turn
from foveate.models.config import ThinkerConfig
from foveate.models.prefix import common_length
from foveate.models.published.environment import asks_for_tools, template_environment
from foveate.models.reasoner import RESPONSE, Message
from foveate.models.tokenizer import TextCodec
from foveate.models.turn_text import with_texts
from foveate.models.video import read_clip

T = TypeVar("T")

OPEN, CLOSE = "\ue0f0", "\ue0f1"
"""Characters for private use that stand around the number of a placeholder."""
BEGINS, ENDS = "\ue0f2", "\ue0f3"
"""Those that stand around what the model says in a turn whose text went through the template."""
VISION = "<|vision_start|>", "<|vision_end|>"
"""Around a video in the templates of the families that see them."""

Form = dict[str, Any]
"""A message as the template takes it."""


@dataclass
class _Aside:
    """What stands for itself in no form: texts by the numbers of their placeholders, pictures and videos in order."""

    texts: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    videos: list[VideoPart] = field(default_factory=list)

    def put(self, text: str) -> str:
        """A placeholder."""
        self.texts.append(text)
        return f"{OPEN}{len(self.texts) - 1}{CLOSE}"


class ChatTemplate:
    """See foveate.models.chat.Chat."""

    def __init__(
        self, source: str, codec: TextCodec, config: ThinkerConfig, names: Mapping[str, str] | None = None
    ) -> None:
        """`source` is the template, `names` the control tokens that it may call bos_token and the like.

        Raises CheckpointError when it is no template.
        """
        self.codec, self.config, self.names = codec, config, dict(names or {})
        self.knows_results = "tool_response" in source
        try:
            self.template = template_environment().from_string(source)
            self.takes_tools = asks_for_tools(source)
        except (TemplateError, RecursionError) as error:
            raise CheckpointError(f"the chat template is not valid: {error}") from error
        self.video = f"{VISION[0]}{codec.controls.video}{VISION[1]}"
        own = f"[{OPEN}{CLOSE}{BEGINS}{ENDS}]"
        self.cuts = re.compile(f"({_any_of([self.video, *codec.ids])}|{OPEN}\\d+{CLOSE}|{own})")
        self.unsafe = re.compile(f"{_any_of(codec.ids)}|{own}")
        self.unsaid = re.compile(f"{_any_of(set(codec.ids) - set(codec.controls.tags))}|{own}")

    def pieces(self, messages: Sequence[Message], *, generate: bool) -> Iterator[Piece]:
        """See Chat."""
        if not messages:  # which templates may not expect
            return
        aside, before = _Aside(), ""
        forms = [self._form(message, aside) for message in messages]
        tools = self._tools(messages, aside)
        header = self._header(forms, tools) if any(ENDS in form["content"] for form in forms) else ""
        for number, message in enumerate(messages):
            if _was_sampled(message):
                rendered = self._rendered(forms[:number], tools, generate=True)
                yield from self._laid_out(self._behind(before, rendered), header, aside)
                yield from written_turn(message, self.codec)
                before = forms[number]["content"]
        rendered = self._rendered(forms, tools, generate=generate)
        yield from self._laid_out(self._behind(before, rendered), header, aside)
        for part in (*aside.pictures, *aside.videos):
            raise InputError(f"the chat template of {self.config.model_type} has no place for {part!r:.80}")

    def _rendered(self, forms: Sequence[Form], tools: Sequence[Any] | None, *, generate: bool) -> str:
        try:
            return self.template.render(
                **self.names, messages=forms, tools=tools, documents=None, add_generation_prompt=generate
            )
        except Exception as error:  # a template is a program, and none of ours
            reason = str(error) or type(error).__name__
            raise InputError(f"the chat template refuses the conversation: {reason}") from error

    def _behind(self, placeholder: str, rendered: str) -> str:
        """What is written after a turn that was sampled and has been closed."""
        if not placeholder:
            return rendered
        _, found, rest = rendered.partition(placeholder)
        if not found:
            raise InputError(f"the chat template of {self.config.model_type} leaves out an assistant's turn")
        return rest.removeprefix(self.codec.controls.ends[0])

    def _header(self, forms: Sequence[Form], tools: Sequence[Any] | None) -> str:
        """What the template writes for a turn that it asks for, from its first control token on."""
        asked, told = (self._rendered(forms, tools, generate=generate) for generate in (True, False))
        cut = self.cuts.split(asked[common_length(asked, told) :])
        first = next((at for at, piece in enumerate(cut) if piece in self.codec.ids), len(cut))
        return "".join(cut[first:])

    def _form(self, message: Message, aside: _Aside) -> Form:
        """A message as the template takes it, its texts, pictures and videos put aside."""
        role = checked_role(message)
        if role == "assistant":
            return {"role": role, "content": aside.put("") if _was_sampled(message) else self._said(message, aside)}
        parts: list[dict[str, str]] = []
        for part in content_of(message):
            if isinstance(part, str):
                parts.append({"type": "text", "text": self._put(part, aside, shows_tags=role == "system")})
            elif isinstance(part, VideoPart):
                parts.append({"type": "video"})
                aside.videos.append(part)
            else:
                parts.append({"type": "image"})
                aside.pictures.append(part)
        if role == "tool" and not self.knows_results:
            role, (opening, closing) = "user", RESPONSE
            parts = [{"type": "text", "text": opening}, *parts, {"type": "text", "text": closing}]
        if len(parts) == 1 and parts[0]["type"] == "text":
            return {"role": role, "content": parts[0]["text"]}
        return {"role": role, "content": parts}

    def _put(self, text: str, aside: _Aside, *, shows_tags: bool) -> str:
        """A text put aside; of one that may show the tags of calls and thoughts what opens and ends turns alone."""
        return self.unsaid.sub(lambda found: aside.put(found[0]), text) if shows_tags else aside.put(text)

    def _said(self, message: Message, aside: _Aside) -> str:
        """A turn's text as the template reads it, its end marked before spaces that a template may strip."""
        text = self._put(turn_text(message), aside, shows_tags=True)
        end = len(text.rstrip())
        return f"{text[:end]}{ENDS}{text[end:]}"

    def _tools(self, messages: Sequence[Message], aside: _Aside) -> Sequence[Any] | None:
        """The tools of the conversation, control tokens in their texts put aside; None when there are none."""
        tools = next((message["tools"] for message in messages if message.get("tools")), None)
        safe: Sequence[Any] | None = with_texts(
            tools, lambda text: self.unsafe.sub(lambda found: aside.put(found[0]), text)
        )
        return safe

    def _laid_out(self, rendered: str, header: str, aside: _Aside) -> Iterator[Piece]:
        """Rendered text as ids, pictures and frames."""
        codec, run, closes = self.codec, "", False
        said_from: int | None = None  # where in the run the model speaks
        for piece in self.cuts.split(self._with_beginnings(rendered, header)):
            if piece == self.video:
                for words, frames in self._frames(self._next(aside.videos, "video")):
                    yield from self._encoded(run + words, None)
                    yield [codec.ids[VISION[0]]], False
                    yield frames, False
                    yield [codec.ids[VISION[1]]], False
                    run = ""
            elif piece in codec.ids:
                yield from self._encoded(run, said_from)
                run, said_from = "", None if said_from is None else 0
                if piece == codec.controls.image:
                    yield self._next(aside.pictures, "picture"), False
                else:
                    yield [codec.ids[piece]], said_from is not None
                if closes and codec.ids[piece] in codec.ends:
                    said_from, closes = None, False
            elif piece in (BEGINS, ENDS):
                said_from, closes = (len(run), closes) if piece == BEGINS else (said_from, True)
            else:
                run += aside.texts[int(piece[1:-1])] if piece.startswith(OPEN) else piece
        yield from self._encoded(run, said_from)

    def _encoded(self, text: str, said_from: int | None) -> Iterator[Piece]:
        """Ids of plain text; the model said those that begin at a place of it or behind."""
        encoding = self.codec.tokenizer.encode(text, add_special_tokens=False)
        first = len(encoding) if said_from is None else sum(start < said_from for start, _ in encoding.offsets)
        yield list(encoding.ids[:first]), False
        yield list(encoding.ids[first:]), True

    def _with_beginnings(self, rendered: str, header: str) -> str:
        """Rendered text with a mark where a turn's text leaves what the template writes for a turn that it asks for."""
        *turns, rest = rendered.split(ENDS)
        cut = self.cuts.split(header)
        first = next(filter(None, cut), "")
        for number, turn in enumerate(turns):
            start = turn.rfind(first) if first in turn else len(turn)
            begins = start + self._common(self.cuts.split(turn[start:]), cut)
            turns[number] = f"{turn[:begins]}{BEGINS}{turn[begins:]}{ENDS}"
        return "".join([*turns, rest])

    def _common(self, pieces: Sequence[str], others: Sequence[str]) -> int:
        """Characters that both begin with, control tokens whole."""
        count = 0
        for piece, other in zip(pieces, others, strict=False):
            if piece != other:
                whole = piece in self.codec.ids or other in self.codec.ids
                return count if whole else count + common_length(piece, other)
            count += len(piece)
        return count

    def _next(self, seen: list[T], kind: str) -> T:
        if not seen:
            raise InputError(f"the chat template of {self.config.model_type} has a place for a {kind} too many")
        return seen.pop(0)

    def _frames(self, part: VideoPart) -> Iterator[tuple[str, Frames]]:
        """A video's frames, whole or patch in time by patch in time, and the words before each."""
        video, depth = self.config.video, self.config.vision.temporal_patch_size
        if video is None:
            raise InputError(f"{self.config.model_type} sees no videos; wanted 'text' or 'image' parts")
        video = part.asked.within(video, depth)
        clip = read_clip(part.source, video, self.config.vision, self.config.image)
        if video.time != "text":
            step = clip.step_s * depth * video.positions_per_second if video.time == "positions" else 1.0
            yield "", Frames(clip.pixels_FHW3, step)
            return
        for start in range(0, len(clip.seconds), depth):
            middle_s = (clip.seconds[start] + clip.seconds[start + depth - 1]) / 2
            yield f"<{middle_s:.1f} seconds>", Frames(clip.pixels_FHW3[start : start + depth], 1.0)


def _was_sampled(message: Message) -> bool:
    return message.get("role") == "assistant" and bool(message.get("token_ids"))


def _any_of(names: Iterable[str]) -> str:
    """A pattern that finds the longest of them."""
    return "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
