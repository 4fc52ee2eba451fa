"""Tiny random checkpoints of the Qwen-VL families, saved by transformers, and what it says of them."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
TAGS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = """\
{%- if messages[0]['role'] != 'system' -%}
<|im_start|>system
Be helpful.<|im_end|>
{% endif -%}
{%- for message in messages -%}
<|im_start|>{{ message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{ message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{ part['text'] }}
{%- else -%}<|vision_start|><|{{ part['type'] }}_pad|><|vision_end|>
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>{{ '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant{{ '\\n' -}}
{%- endif -%}
"""
PART = "<|vision_start|><|image_pad|><|vision_end|>"
THINKING = """\
{%- macro words(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}{%- for part in content -%}{{ part.text if part.type == 'text' else 'PART' }}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{{- '<|im_start|>system\\n' + (words(messages[0].content) + '\\n\\n' if messages[0].role == 'system' else '') -}}
{{- 'You have tools:\\n<tools>' -}}
{%- for tool in tools -%}{{- '\\n' + tool|tojson -}}{%- endfor -%}
{{- '\\n</tools>\\nCall one in <tool_call></tool_call>.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- set said = words(message.content) -%}
{%- if message.role == 'assistant' -%}
{%- set thought = '' -%}
{%- if '</think>' in said -%}
{%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
{%- set said = said.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- set later = messages[loop.index:] | selectattr('role', 'equalto', 'user') | list -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if not later and (loop.last or thought) -%}
{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' -}}
{%- endif -%}
{{- (said.lstrip('\\n') if not later else said) + '<|im_end|>\\n' -}}
{%- elif message.role == 'tool' -%}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\\n<tool_response>\\n' + said + '\\n</tool_response>' -}}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
{%- elif not (tools and loop.first and message.role == 'system') -%}
{{- '<|im_start|>' + message.role + '\\n' + said + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}
""".replace("PART", PART)
"""Built as those of thinking models: it lays out tools, opens a thought where it asks for a turn, and leaves out those
of earlier turns of text."""
CORPUS = ["the user asks the assistant: what is in the image? The total is 42.\n", "system tool result\n\n  spaces"] * 9


@functools.cache
def tokenizer() -> "transformers.PreTrainedTokenizerFast":
    """Bytes and merges of the corpus, cut as the Qwen families do."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    bpe.add_tokens([AddedToken(token, special=False, normalized=False) for token in TAGS])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def text_settings(family: str) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    if family.startswith("qwen3"):
        rope |= {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    return {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16,
        "num_key_value_heads": 2, "vocab_size": 352, "max_position_embeddings": 4096, "rope_parameters": rope,
    } | (experts if family.endswith("moe") else {})  # fmt: skip


def vision_settings(family: str) -> dict[str, Any]:
    if family == "qwen2_vl":
        return {"depth": 3, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2}
    shared = {"depth": 3, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 64}
    if family == "qwen2_5_vl":
        return shared | {"window_size": 112, "fullatt_block_indexes": [1]}
    return shared | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1], "patch_size": 16}


def model(
    family: str,
    *,
    tied: bool = False,
    seed: int = 1,
    text: Mapping[str, Any] = MappingProxyType({}),
    vision: Mapping[str, Any] = MappingProxyType({}),
) -> nn.Module:
    """Random weights, none of them zero or one, so that each is in the result; other settings in `text`, `vision`."""
    torch.manual_seed(seed)
    names = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL", "qwen3_vl_moe": "Qwen3VLMoe"}
    ids = {token: tokenizer().convert_tokens_to_ids(token) for token in SPECIAL}
    config = getattr(transformers, f"{names[family]}Config")(
        text_config=text_settings(family) | text, vision_config=vision_settings(family) | vision,
        tie_word_embeddings=tied,
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    made: nn.Module = getattr(transformers, f"{names[family]}ForConditionalGeneration")(config).eval()
    made.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    made.generation_config.update(do_sample=True, top_k=20, top_p=0.8)
    for parameter in made.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return made


def image_processor(family: str) -> "transformers.Qwen2VLImageProcessorPil":
    settings = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3} if "3" in family else {}
    return transformers.Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 60_000}, **settings)


def save(family: str, folder: Path, *, max_shard_size: str = "1GB", **settings: Any) -> nn.Module:
    """Write the folder as transformers does; returns the model. `settings` as in `model`."""
    made = model(family, **settings)
    made.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer().save_pretrained(folder)
    image_processor(family).save_pretrained(folder)
    return made


def inputs(family: str, messages: Sequence[dict[str, Any]], *, generate: bool) -> dict[str, Tensor]:
    """What transformers makes of a conversation."""
    text = tokenizer().apply_chat_template(list(messages), tokenize=False, add_generation_prompt=generate)
    pictures: list[Image.Image] = [
        part["image"] for message in messages if not isinstance(message["content"], str)
        for part in message["content"] if part["type"] == "image"
    ]  # fmt: skip
    made = dict(image_processor(family)(pictures, return_tensors="pt")) if pictures else {}
    for grid in made.get("image_grid_thw", []):
        text = text.replace("<|image_pad|>", "<|placeholder|>" * (int(grid.prod()) // 4), 1)
    ids = tokenizer()(text.replace("<|placeholder|>", "<|image_pad|>"), return_tensors="pt")["input_ids"]
    types = (ids == tokenizer().convert_tokens_to_ids("<|image_pad|>")).long()
    return {"input_ids": ids, "mm_token_type_ids": types, **made}
