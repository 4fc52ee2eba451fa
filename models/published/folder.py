"""What a published folder says beside its weights: sizes, tokens and the chat template."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foveate.errors import CheckpointError, ConfigError
from foveate.models.config import ThinkerConfig
from foveate.models.files import read_optional
from foveate.models.published.kimi import kimi_config
from foveate.models.published.qwen import qwen_config
from foveate.models.published.template import ChatTemplate
from foveate.models.published.tokens import published_codec, read_tokenizer
from foveate.models.tokenizer import TextCodec

COMPANIONS = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    "chat_template.json", "vocab.json", "merges.txt", "tiktoken.model", "special_tokens_map.json",
)  # fmt: skip
"""Files that belong to the weights, as they are."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A folder's parts."""

    config: ThinkerConfig
    codec: TextCodec
    chat: ChatTemplate


def read_published(folder: Path, values: dict[str, Any]) -> Published:
    """Read what stands beside config.json, whose `values` are known. Raises CheckpointError naming file and key."""
    whole = read_optional(folder / "processor_config.json")
    images = whole.get("image_processor") or read_optional(folder / "preprocessor_config.json")
    videos = whole.get("video_processor") or read_optional(folder / "video_preprocessor_config.json")
    try:
        is_kimi = values["model_type"] == "kimi_vl"
        config = kimi_config(values, images) if is_kimi else qwen_config(values, images, videos)
    except ConfigError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    generation = read_optional(folder / "generation_config.json")
    config = replace(config, top_k=generation.get("top_k") or 0, top_p=generation.get("top_p") or 1.0)
    codec = published_codec(read_tokenizer(folder), generation, values)
    return Published(config=config, codec=codec, chat=ChatTemplate(template_of(folder), codec, config))


def template_of(folder: Path) -> str:
    """The chat template, from whichever file holds it. Raises CheckpointError when none does."""
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text()
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = read_optional(folder / name).get("chat_template")
        if isinstance(found, list):
            found = {entry["name"]: entry["template"] for entry in found}.get("default")
        if isinstance(found, str):
            return found
    raise CheckpointError(
        f"{folder} has no chat template; wanted chat_template.jinja or .json, or tokenizer_config.json"
    )
