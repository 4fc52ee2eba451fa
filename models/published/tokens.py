"""A published tokenizer.json as a TextCodec: added tokens are control tokens, which text from outside never becomes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from foveate.errors import CheckpointError
from foveate.models.tokenizer import Controls, TextCodec

IMAGE = "<|image_pad|>"
END = "<|im_end|>"
"""Where the template closes a turn."""


def published_codec(path: Path, generation: Mapping[str, Any]) -> TextCodec:
    """From tokenizer.json and generation_config.json, which names the tokens that end a turn.

    What a family marks as special is written by templates alone; its other added tokens (calls, thoughts) are the
    model's own to write. Raises CheckpointError when the file is missing or no tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error
    added = tokenizer.get_added_tokens_decoder()
    ends = generation.get("eos_token_id") or []
    end_ids = [ends] if isinstance(ends, int) else ends
    names = tuple(token.content for token in added.values())
    tags = tuple(token.content for token in added.values() if not token.special)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    closing = [END, *(added[index].content for index in end_ids if index in added)]
    return TextCodec(tokenizer, Controls(names=names, tags=tags, ends=tuple(dict.fromkeys(closing)), image=IMAGE))
