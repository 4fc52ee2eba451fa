"""Messages to a transcript: the chat form, the pictures and the token ids, in one pass.

Prepared pictures are remembered by the hash of their pixels, so a conversation resizes each picture once. An agent's
pictures have such a hash from its store; others are hashed each time.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.models.chat import Chat, ChatML, Frames, Picture, SizedPicture, StoredPicture, rgb_of
from foveate.models.config import ImageConfig, ThinkerConfig
from foveate.models.image import Grid, image_grid, patchify, resize
from foveate.models.reasoner import Message
from foveate.models.recent import Recent
from foveate.models.tokenizer import TextCodec
from foveate.models.transcript import ImageInput, Part, Transcript, build_transcript


class Processor:
    """Turns messages into transcripts for one thinker."""

    def __init__(
        self, config: ThinkerConfig, codec: TextCodec, chat: Chat | None = None, room_bytes: int = 2**29
    ) -> None:
        """`chat` lays out conversations, nano's form when None; `room_bytes` for pictures that are remembered."""
        self.config, self.codec, self.chat = config, codec, chat or ChatML(codec)
        codec.num_rows = config.decoder.vocab_size
        self._images: Recent[str, ImageInput] = Recent(room_bytes, _bytes_of)

    def __call__(self, messages: Sequence[Message], *, generate: bool = False) -> Transcript:
        """The transcript of a conversation; with `generate` it ends where the assistant's next turn begins.

        Raises InputError for an unknown role or part, ImageError for a picture that cannot be read.
        """
        parts: list[Part] = [
            (piece if isinstance(piece, list) else self._seen(piece), written)
            for piece, written in self.chat.pieces(messages, generate=generate)
        ]
        return build_transcript(
            parts,
            image_pad_id=self.codec.image_pad,
            merge_size=self.config.vision.merge_size,
            in_line=self.config.decoder.image_positions == "line",
        )

    def __deepcopy__(self, memo: object) -> "Processor":
        """Itself, which copies of a thinker share: it has no weights, and templates of chats cannot be copied."""
        return self

    def forget(self) -> None:
        """Prepare every picture anew that comes from here on."""
        self._images.clear()

    def image_tokens(self, width_px: int, height_px: int) -> int:
        """Tokens that a picture of this size takes, with those that the chat form writes around it."""
        grid = image_grid(width_px, height_px, self.config.vision, self.config.image)
        return grid.num_tokens(self.config.vision.merge_size) + self._frame_tokens

    def seen_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height of the patches of a picture of this size."""
        grid = image_grid(width_px, height_px, self.config.vision, self.config.image)
        return grid.w * self.config.vision.patch_size, grid.h * self.config.vision.patch_size

    @cached_property
    def _frame_tokens(self) -> int:
        """Tokens that the chat form writes around a picture. Raises InputError when it has no place for one."""
        words = {"type": "text", "text": "a"}
        picture = {"type": "image", "image": Image.new("RGB", (1, 1))}
        return self._written([words, picture]) - self._written([words])

    def _written(self, content: Sequence[dict[str, Any]]) -> int:
        """Number of ids of a user's message, its pictures left out."""
        pieces = self.chat.pieces([{"role": "user", "content": content}], generate=False)
        return sum(len(piece) for piece, _ in pieces if isinstance(piece, list))

    def _seen(self, piece: Picture | Frames) -> ImageInput:
        return self._video(piece) if isinstance(piece, Frames) else self._image(piece)

    def _video(self, frames: Frames) -> ImageInput:
        config, pixels_FHW3 = self.config, frames.pixels_FHW3
        assert self.codec.controls.video is not None
        count, height_px, width_px, _ = pixels_FHW3.shape
        patch_px = config.vision.patch_size
        grid = Grid(t=count // config.vision.temporal_patch_size, h=height_px // patch_px, w=width_px // patch_px)
        return ImageInput(
            key=hashlib.blake2b(pixels_FHW3.tobytes() + repr((grid, frames.step)).encode(), digest_size=16).hexdigest(),
            grid=grid,
            num_tokens=grid.num_tokens(config.vision.merge_size),
            patches_NP=patchify(pixels_FHW3, config.vision, config.image),
            pad_id=self.codec.ids[self.codec.controls.video],
            step=frames.step,
        )

    def _image(self, source: Picture) -> ImageInput:
        if not isinstance(source, SizedPicture):
            return self._prepared(*_named(source), self.config.image)
        key, picture = _named(source.picture)
        image = source.within(self.config.image)
        return self._prepared(f"{key} of {image.min_pixels} to {image.max_pixels}", picture, image)

    def _prepared(self, key: str, picture: Image.Image, image: ImageConfig) -> ImageInput:
        """The input of a picture whose pixels and size the key names; made once while it is remembered."""
        prepared = self._images.get(key)
        if prepared is None:
            rgb = rgb_of(picture)
            grid = image_grid(*rgb.size, self.config.vision, image)
            pixels_HW3 = resize(rgb, grid, self.config.vision, image)
            patches_NP = patchify(pixels_HW3[None], self.config.vision, image)
            num_tokens = grid.num_tokens(self.config.vision.merge_size)
            prepared = ImageInput(key=key, grid=grid, num_tokens=num_tokens, patches_NP=patches_NP)
            self._images.put(key, prepared)
        return prepared


def _bytes_of(image: ImageInput) -> int:
    return image.patches_NP.nbytes


def _named(source: Image.Image | Path | StoredPicture) -> tuple[str, Image.Image]:
    """A name of the pixels, and the picture."""
    if isinstance(source, StoredPicture):
        return source.sha256, source.image
    rgb = rgb_of(source)
    return hashlib.blake2b(rgb.tobytes() + repr(rgb.size).encode(), digest_size=16).hexdigest(), rgb
