"""Messages to ids and pictures, in nano's form: ChatML as in the Qwen families.

A tool's result stands in a user turn between <tool_response> tags. Sampled turns come back with their own ids. What a
published checkpoint's own template says is in foveate.models.published.template.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.models.config import ImageConfig
from foveate.models.reasoner import OTHERS_TURN, Message
from foveate.models.tokenizer import TextCodec
from foveate.models.video import VideoAsked
from foveate.pictures import open_picture

PARTS = ("text", "image", "video")
LOST = {
    "image": ("resized_height", "resized_width"),
    "video": (
        "min_frames", "max_frames", "total_pixels", "video_start", "video_end", "resized_height", "resized_width",
        "raw_fps",
    ),
}  # fmt: skip
"""Keys of Qwen's parts that are not heeded."""
BESIDE_CONTENT = ("tool_calls", "reasoning_content")
"""Keys of OpenAI's messages that are not heeded."""
_NO_WORD = re.compile(r"\s*(?:<think>|◁think▷)?\s*")
"""What a turn says that ended at once, also behind a thought that its template opened."""
ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "user"}


class StoredPicture(NamedTuple):
    """A picture with the sha256 that a store knows it by: equal names, equal pixels."""

    image: Image.Image
    sha256: str


class SizedPicture(NamedTuple):
    """A picture and in how many pixels it is to be seen, as parts of Qwen's messages say; None for the family's way."""

    picture: Image.Image | Path | StoredPicture
    min_pixels: int | None
    max_pixels: int | None

    def within(self, image: ImageConfig) -> ImageConfig:
        """The family's way with these. Raises InputError for numbers that leave no size."""
        if self.min_pixels is not None and image.fit == "pad":
            raise InputError("image part: this family enlarges no picture, wanted no min_pixels")
        least, most = self.min_pixels or image.min_pixels, self.max_pixels or image.max_pixels
        if not least <= most:
            raise InputError(f"image part: min_pixels is {least} and max_pixels is {most}, wanted the first no larger")
        return replace(image, min_pixels=least, max_pixels=most)


Picture = Image.Image | Path | StoredPicture | SizedPicture


class VideoPart(NamedTuple):
    """A video in a message: a file, or frames that were chosen already."""

    source: Path | Sequence[Image.Image | Path]
    asked: VideoAsked


class Frames(NamedTuple):
    """Neighbouring frames of a video, which become one image's tokens."""

    pixels_FHW3: np.ndarray
    """RGB bytes in whole patches: the size is the one they are seen at."""
    step: float
    """Positions from one patch in time to the next."""


Piece = tuple[list[int] | Picture | Frames, bool]
"""Ids, a picture or frames, and whether the policy wrote them."""


class Chat(Protocol):
    """How a family lays out a conversation."""

    def pieces(self, messages: Sequence[Message], *, generate: bool) -> Iterator[Piece]:
        """The conversation in order; with `generate` it ends where the assistant's next turn begins.

        Raises InputError for an unknown role or part.
        """
        ...


class ChatML:
    """nano's form."""

    def __init__(self, codec: TextCodec) -> None:
        self.codec = codec

    def pieces(self, messages: Sequence[Message], *, generate: bool) -> Iterator[Piece]:
        """See Chat."""
        for message in messages:
            yield from self._message(message)
        if generate:
            yield self._header("assistant"), False

    def _header(self, role: str) -> list[int]:
        return [self.codec.ids["<|im_start|>"], *self.codec.encode(f"{role}\n")]

    def _message(self, message: Message) -> Iterator[Piece]:
        role, ids = checked_role(message), self.codec.ids
        yield self._header(ROLES[role]), False
        if role == "assistant":
            yield from written_turn(message, self.codec)
        else:
            if role == "tool":
                yield [ids["<tool_response>"]], False
            for part in content_of(message):
                yield from self._part(part)
            if role == "tool":
                yield [ids["</tool_response>"]], False
            yield [self.codec.end_of_turn], False
        yield self.codec.encode("\n"), False

    def _part(self, part: str | Picture | VideoPart) -> Iterator[Piece]:
        if isinstance(part, VideoPart):
            raise InputError("nano sees no videos; wanted 'text' or 'image' parts")
        if isinstance(part, str):
            yield self.codec.encode(part), False
            return
        yield [self.codec.ids["<|vision_start|>"]], False
        yield part, False
        yield [self.codec.ids["<|vision_end|>"]], False


def checked_role(message: Message) -> str:
    """The role of a message. Raises InputError for one that no chat has, and for one that is more than its content."""
    role = message.get("role")
    if role not in ROLES:
        raise InputError(f"message role is {role!r}, wanted one of {', '.join(ROLES)}")
    for key in BESIDE_CONTENT:
        if message.get(key):
            raise InputError(f"a message's {key} would be lost, wanted all in its content, as the model writes it")
    return str(role)


def content_of(message: Message) -> Iterator[str | Picture | VideoPart]:
    """Texts, pictures and videos of a message in order. Raises InputError for a part that is none of them."""
    content: str | Sequence[dict[str, Any]] | None = message.get("content")
    if not isinstance(content, str | Sequence | None):
        raise InputError(f"message content is of the type {type(content).__name__}, wanted text or a list of parts")
    for part in [{"type": "text", "text": content or ""}] if isinstance(content, str | None) else content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in PARTS or kind not in part:
            raise InputError(f"message part is {part!r:.80}, wanted a 'type' of {', '.join(PARTS)} and what it names")
        if kind == "text":
            yield str(part["text"])
        elif kind == "image":
            yield _picture(part)
        else:
            yield _video(part)


def _refuse_lost(kind: str, part: dict[str, Any]) -> None:
    """Raises InputError for keys of Qwen's parts that nobody here would heed."""
    lost = [key for key in LOST[kind] if part.get(key) is not None]
    if lost:
        raise InputError(f"{kind} part: {', '.join(lost)} would be lost, wanted none of {', '.join(LOST[kind])}")


def _video(part: dict[str, Any]) -> VideoPart:
    _refuse_lost("video", part)
    source, asked = part["video"], VideoAsked.of(part)
    if isinstance(source, str | PathLike):
        return VideoPart(Path(source), asked)
    if not isinstance(source, Sequence):
        raise InputError(f"a video is of the type {type(source).__name__}, wanted a path or a list of pictures")
    if asked.nframes is not None:
        raise InputError("video part: nframes is of a file, wanted none with frames that were chosen already")
    return VideoPart(tuple(map(_source, source)), asked)


def _source(value: Any) -> Image.Image | Path:
    if isinstance(value, Image.Image):
        return value
    if not isinstance(value, str | PathLike):
        raise InputError(f"a picture is of the type {type(value).__name__}, wanted a path or a PIL image")
    return Path(value)


def _picture(part: dict[str, Any]) -> Picture:
    _refuse_lost("image", part)
    picture: Image.Image | Path | StoredPicture = _source(part["image"])
    sha256 = part.get("sha256")
    limits = [part.get(key) for key in ("min_pixels", "max_pixels")]
    if any(not (limit is None or (type(limit) is int and limit > 0)) for limit in limits):
        raise InputError(f"image part: min_pixels and max_pixels are {limits}, wanted whole numbers above 0")
    if isinstance(picture, Image.Image) and sha256 is not None:
        picture = StoredPicture(picture, sha256)
    return picture if limits == [None, None] else SizedPicture(picture, *limits)


def rgb_of(source: Picture) -> Image.Image:
    """The pixels of a picture, upright, over white. Raises ImageError for what is none."""
    picture = source.picture if isinstance(source, SizedPicture) else source
    return open_picture(picture.image if isinstance(picture, StoredPicture) else picture)


def says(token_ids: Sequence[int], text: str, codec: TextCodec) -> bool:
    """Whether ids are a turn's text in this vocabulary. A template may have begun it, or the text may end sooner."""
    if max(token_ids) >= codec.num_rows:
        return False
    said = codec.decode(token_ids)
    if _NO_WORD.fullmatch(text):  # ended at once, or cut where it would have made up what a tool says
        return (
            text.endswith(said)
            or (bool(text) and said.startswith(text))
            or OTHERS_TURN.startswith(said)
            or said.startswith(OTHERS_TURN)
        )
    return text.endswith(said) or said.startswith(text)


def written_turn(message: Message, codec: TextCodec) -> Iterator[Piece]:
    """An assistant's turn to its end: ids as sampled, or the text encoded when nobody did, or another model.

    A turn that was cut is closed by the template.
    """
    sampled, text = list(message.get("token_ids") or []), turn_text(message)
    if not sampled or not says(sampled, text, codec):  # those of another model's vocabulary
        yield [*codec.encode_model_text(text), codec.end_of_turn], True
        return
    yield sampled, True
    if sampled[-1] not in codec.ends:
        yield [codec.end_of_turn], False


def turn_text(message: Message) -> str:
    """What an assistant's message says. Raises InputError for a part that is no text."""
    texts = list(content_of(message))
    if not all(isinstance(text, str) for text in texts):
        raise InputError("an assistant's message has an image or a video, wanted text alone")
    return "".join(map(str, texts))
