"""A published tokenizer as a TextCodec: added tokens are control tokens, which text from outside never becomes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from foveate.errors import CheckpointError
from foveate.models.files import read_optional
from foveate.models.published.tiktoken import tiktoken_tokenizer
from foveate.models.tokenizer import Controls, TextCodec

END = "<|im_end|>"
"""Where the templates close a turn."""


def read_tokenizer(folder: Path) -> Tokenizer:
    """From tokenizer.json or tiktoken.model. Raises CheckpointError when neither is there or can be read."""
    path = folder / "tokenizer.json"
    ranks = folder / "tiktoken.model"
    try:
        if not path.is_file() and ranks.is_file():
            return tiktoken_tokenizer(ranks, read_optional(folder / "tokenizer_config.json"))
        return Tokenizer.from_file(str(path))
    except CheckpointError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error


def published_codec(tokenizer: Tokenizer, generation: Mapping[str, Any], values: Mapping[str, Any]) -> TextCodec:
    """With generation_config.json, which names what ends a turn, and config.json, what stands for images and videos.

    What a family marks as special is written by templates alone; its other added tokens (calls, thoughts) are the
    model's own to write.
    """
    added = tokenizer.get_added_tokens_decoder()
    ends = generation.get("eos_token_id") or []
    end_ids = [ends] if isinstance(ends, int) else ends
    names = tuple(token.content for token in added.values())
    tags = tuple(token.content for token in added.values() if not token.special)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    closing = [END, *(added[index].content for index in end_ids if index in added)]
    image_id = values.get("image_token_id", values.get("media_placeholder_token_id"))
    video_id = values.get("video_token_id")
    controls = Controls(
        names=names,
        tags=tags,
        ends=tuple(dict.fromkeys(closing)),
        image=added[image_id].content if image_id in added else "<|image_pad|>",
        video=added[video_id].content if video_id in added else None,
    )
    return TextCodec(tokenizer, controls)
