"""Messages to a transcript: the chat form, the pictures and the token ids, in one pass.

The form is ChatML as in the Qwen families: a tool's result stands in a user turn between <tool_response> tags. Sampled
turns come back with their own ids. Prepared pictures are remembered by the hash of their pixels, so a conversation
resizes each picture once.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from foveate.errors import ImageError, InputError
from foveate.models.config import ThinkerConfig
from foveate.models.image import image_grid, patchify, resize
from foveate.models.reasoner import Message
from foveate.models.tokenizer import TextCodec
from foveate.models.transcript import ImageInput, Part, Transcript, build_transcript

ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "user"}


class Processor:
    """Turns messages into transcripts for one thinker."""

    def __init__(self, config: ThinkerConfig, codec: TextCodec, remembered_images: int = 64) -> None:
        self.config, self.codec = config, codec
        self.remembered_images = remembered_images
        self._images: OrderedDict[str, ImageInput] = OrderedDict()

    def __call__(self, messages: Sequence[Message], *, generate: bool = False) -> Transcript:
        """The transcript of a conversation; with `generate` it ends where the assistant's next turn begins.

        Raises InputError for an unknown role or part, ImageError for a picture that cannot be read.
        """
        parts: list[Part] = []
        for message in messages:
            parts += self._message(message)
        if generate:
            parts.append((self._header("assistant"), False))
        return build_transcript(parts, image_pad_id=self.codec.image_pad, merge_size=self.config.vision.merge_size)

    def image_tokens(self, width_px: int, height_px: int) -> int:
        """Tokens that a picture of this size takes, with its two delimiters."""
        grid = image_grid(width_px, height_px, self.config.vision, self.config.image)
        return grid.num_tokens(self.config.vision.merge_size) + 2

    def _header(self, role: str) -> list[int]:
        return [self.codec.ids["<|im_start|>"], *self.codec.encode(f"{role}\n")]

    def _message(self, message: Message) -> list[Part]:
        role = message.get("role")
        if role not in ROLES:
            raise InputError(f"message role is {role!r}, wanted one of {', '.join(ROLES)}")
        ids = self.codec.ids
        parts: list[Part] = [(self._header(ROLES[role]), False)]
        if role == "assistant":
            parts += self._assistant(message)
        elif role == "tool":
            parts.append(([ids["<tool_response>"]], False))
            parts += self._content(message.get("content", ""))
            parts.append(([ids["</tool_response>"], ids["<|im_end|>"]], False))
        else:
            parts += self._content(message.get("content", ""))
            parts.append(([ids["<|im_end|>"]], False))
        return [*parts, (self.codec.encode("\n"), False)]

    def _assistant(self, message: Message) -> list[Part]:
        """Ids as sampled, or the text encoded when nobody sampled it; a turn that was cut is closed by the template."""
        sampled = list(message.get("token_ids") or [])
        end = self.codec.end_of_turn
        if not sampled:
            return [([*self.codec.encode_model_text(message.get("content", "")), end], True)]
        return [(sampled, True)] if sampled[-1] == end else [(sampled, True), ([end], False)]

    def _content(self, content: str | Sequence[dict[str, Any]]) -> list[Part]:
        if isinstance(content, str):
            return [(self.codec.encode(content), False)]
        parts: list[Part] = []
        for part in content:
            if part.get("type") == "text":
                parts.append((self.codec.encode(part["text"]), False))
            elif part.get("type") == "image":
                ids = self.codec.ids
                parts.append(([ids["<|vision_start|>"]], False))
                parts.append((self._image(part["image"]), False))
                parts.append(([ids["<|vision_end|>"]], False))
            else:
                raise InputError(f"message part has type {part.get('type')!r}, wanted 'text' or 'image'")
        return parts

    def _image(self, source: Image.Image | str | Path) -> ImageInput:
        picture = source if isinstance(source, Image.Image) else _open(source)
        rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
        key = hashlib.blake2b(rgb.tobytes() + repr(rgb.size).encode(), digest_size=16).hexdigest()
        if key not in self._images:
            grid = image_grid(*rgb.size, self.config.vision, self.config.image)
            pixels_HW3 = resize(rgb, grid, self.config.vision.patch_size)
            patches_NP = patchify(pixels_HW3, self.config.vision, self.config.image)
            num_tokens = grid.num_tokens(self.config.vision.merge_size)
            self._images[key] = ImageInput(key=key, grid=grid, num_tokens=num_tokens, patches_NP=patches_NP)
        self._images.move_to_end(key)
        while len(self._images) > self.remembered_images:
            self._images.popitem(last=False)
        return self._images[key]


def _open(path: str | Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read the picture {path}: {error}") from error
