"""What a published folder says beside its weights: sizes, tokens and the chat template."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foveate.errors import CheckpointError, ConfigError
from foveate.models.config import ThinkerConfig
from foveate.models.files import Section, read_optional, read_section, read_text
from foveate.models.published.kimi import kimi_config
from foveate.models.published.qwen import qwen_config
from foveate.models.published.template import ChatTemplate
from foveate.models.published.tokens import named_tokens, published_codec, read_tokenizer
from foveate.models.tokenizer import TextCodec

GENERATION = "generation_config.json"
COMPANIONS = (
    "config.json", GENERATION, "preprocessor_config.json", "processor_config.json",
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
    config = Section(values=values, where=str(folder / "config.json"))
    whole = read_section(folder / "processor_config.json")
    images = whole.section("image_processor") or read_section(folder / "preprocessor_config.json")
    videos = whole.section("video_processor") or read_section(folder / "video_preprocessor_config.json")
    generation = read_section(folder / GENERATION)
    try:
        is_kimi = values["model_type"] == "kimi_vl"
        sizes = kimi_config(config, images) if is_kimi else qwen_config(config, images, videos)
    except ConfigError as error:
        raise CheckpointError(f"{config.where}: {error}") from error
    top_k, top_p = _filters(generation)
    sizes = replace(
        sizes,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=_above_zero(generation, "repetition_penalty"),
        context_tokens=(config.section("text_config") or config).get("max_position_embeddings", int, 0),
    )
    yarn = sizes.decoder.rope_yarn
    if yarn is not None:
        sizes = replace(sizes, context_tokens=max(sizes.context_tokens, round(yarn.factor * yarn.context)))
    with _named(folder):
        codec = published_codec(read_tokenizer(folder), generation.values, values)
        chat = ChatTemplate(template_of(folder), codec, sizes, named_tokens(folder))
    return Published(config=sizes, codec=codec, chat=chat)


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Errors of the block name the folder, if they do not already."""
    try:
        yield
    except CheckpointError as error:
        if str(folder) in str(error):
            raise
        raise CheckpointError(f"{folder}: {error}") from error


def check_weights_are_numbers(config: Section) -> None:
    """Raises CheckpointError where weights are packed, or have scales beside them."""
    for section in (config, config.section("text_config")):
        if packed := section.section("quantization_config"):
            raise CheckpointError(
                f"{packed.where} asks for {packed.get('quant_method', str, 'packed weights')}, wanted weights as bf16, "
                "f16 or f32: take the folder that this one was made of (':int8' or ':nf4' behind its name rounds them)"
            )


def _filters(generation: Section) -> tuple[int, float]:
    """top_k and top_p; none where only the likeliest token is left, which a caller asks for with temperature 0."""
    top_k, top_p = generation.get("top_k", int, 0, least=0), generation.get("top_p", float, 1.0)
    if not 0 < top_p <= 1:
        raise CheckpointError(f"{generation.where}: top_p is {top_p}, wanted more than 0 and at most 1")
    return (0, 1.0) if top_k == 1 else (top_k, top_p)


def _above_zero(section: Section, key: str) -> float:
    """A factor, 1 where it is left out. Raises CheckpointError for one that is not above zero."""
    value = section.get(key, float, 1.0)
    if value <= 0:
        raise CheckpointError(f"{section.where}: {key} is {value}, wanted more than 0")
    return value


def template_of(folder: Path) -> str:
    """The chat template, of the files that hold one from that which transformers' processors take.

    Raises CheckpointError when none does.
    """
    for name in ("processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json"):
        if name.endswith(".jinja"):
            if (path := folder / name).is_file():
                return read_text(path)
            continue
        found = read_optional(folder / name).get("chat_template")
        if isinstance(found, list):
            found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}.get(
                "default"
            )
        if isinstance(found, str):
            return found
    raise CheckpointError(
        f"{folder} has no chat template; wanted chat_template.jinja or .json, or tokenizer_config.json"
    )
