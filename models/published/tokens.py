"""A published tokenizer as a TextCodec: added tokens are control tokens, which text from outside never becomes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from foveate.errors import CheckpointError
from foveate.models.files import Section, read_optional
from foveate.models.published.tiktoken import tiktoken_tokenizer
from foveate.models.tokenizer import Controls, TextCodec

END = "<|im_end|>"
"""Where the templates close a turn."""
WRITTEN = frozenset(
    ("<think>", "</think>", "◁think▷", "◁/think▷", "<tool_call>", "</tool_call>", "<|object_ref_start|>",
     "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>")
)  # fmt: skip
"""What models write themselves, also where their vocabulary calls it special: thoughts, calls, and places in a picture
(Qwen2-VL)."""
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""What templates may call a token, as tokenizer_config.json does."""


def read_tokenizer(folder: Path) -> Tokenizer:
    """From tokenizer.json or tiktoken.model. Raises CheckpointError when neither is there or can be read."""
    path, ranks = folder / "tokenizer.json", folder / "tiktoken.model"
    if not path.is_file() and ranks.is_file():
        path = ranks
    try:
        if path == ranks:
            return tiktoken_tokenizer(ranks, read_optional(folder / "tokenizer_config.json"))
        return Tokenizer.from_file(str(path))
    except CheckpointError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise CheckpointError(f"cannot read the tokenizer {path}: {error}") from error


def published_codec(tokenizer: Tokenizer, generation: Mapping[str, Any], values: Mapping[str, Any]) -> TextCodec:
    """With generation_config.json, which names what ends a turn, and config.json, what stands for images and videos.

    A model may write what its family does not mark as special, and `WRITTEN`. All else (turns, images, videos) is for
    templates alone. Raises CheckpointError when what ends a turn is no id.
    """
    added = tokenizer.get_added_tokens_decoder()
    names_of_ids = Section(values=dict(values))
    media_id = names_of_ids.get("media_placeholder_token_id", int, -1, least=0)
    image_id = names_of_ids.get("image_token_id", int, media_id, least=0)
    video_id = names_of_ids.get("video_token_id", int, -1, least=0)
    names = tuple(token.content for token in added.values())
    written = [
        token.content
        for index, token in added.items()
        if index not in (image_id, video_id) and (not token.special or token.content in WRITTEN)
    ]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    closing = [END, *filter(None, map(tokenizer.id_to_token, _end_ids(generation, values)))]
    controls = Controls(
        names=names,
        tags=tuple(written),
        ends=tuple(dict.fromkeys(closing)),
        image=added[image_id].content if image_id in added else "<|image_pad|>",
        video=added[video_id].content if video_id in added else None,
    )
    return TextCodec(tokenizer, controls)


def _end_ids(generation: Mapping[str, Any], values: Mapping[str, Any]) -> list[int]:
    """Where there is no generation_config.json, config.json names them, as in transformers."""
    places = [generation] if generation else [values, values.get("text_config") or {}]
    named: Any = next((found for place in places if (found := place.get("eos_token_id")) is not None), [])
    ids: list[int] = named if isinstance(named, list) else [named]
    if not all(type(index) is int and index >= 0 for index in ids):
        where = "generation_config.json" if generation else "config.json"
        raise CheckpointError(f"{where}: eos_token_id is {named!r}, wanted the id of a token or a list of ids")
    return ids


def named_tokens(folder: Path) -> dict[str, str]:
    """Control tokens by what templates call them (bos_token, eos_token, ...), those that a folder names.

    Raises CheckpointError for one that does not say how it is written.
    """
    found = read_optional(folder / "special_tokens_map.json") | read_optional(folder / "tokenizer_config.json")
    tokens = {name: found[name] for name in NAMED if found.get(name)}
    for name, token in tokens.items():
        if isinstance(token, dict) and "content" not in token:
            raise CheckpointError(f"{folder}: {name} is {token!r:.80}, wanted a text, or an object with its content")
    return {name: token["content"] if isinstance(token, dict) else str(token) for name, token in tokens.items()}
