"""Folders of published shapes with random weights, written once for the time of a measurement.

Shapes: Qwen2.5-VL-3B-Instruct, and Kimi-VL-A3B with 4 of its 27 layers, from their configurations.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from foveate.models.checkpoint import nano_path
from foveate.models.files import Section
from foveate.models.published.kimi import kimi_config
from foveate.models.published.names import RULES, published_tensors
from foveate.models.published.qwen import qwen_config
from foveate.models.thinker import Thinker
from foveate.models.tokenizer import TextCodec

QWEN: dict[str, Any] = {
    "model_type": "qwen2_5_vl", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008,
    "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
    "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "tie_word_embeddings": True,
    "max_position_embeddings": 128000, "image_token_id": 5, "vision_start_token_id": 3, "vision_end_token_id": 4,
    "video_token_id": 1000,
    "vision_config": {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
    },
}  # fmt: skip
KIMI: dict[str, Any] = {
    "model_type": "kimi_vl", "media_placeholder_token_id": 5,
    "text_config": {
        "vocab_size": 163840, "hidden_size": 2048, "intermediate_size": 11264, "num_hidden_layers": 4,
        "num_attention_heads": 16, "num_key_value_heads": 16, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "kv_lora_rank": 512,
        "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_group": 1,
        "topk_group": 1, "routed_scaling_factor": 2.446, "norm_topk_prob": True, "rms_norm_eps": 1e-5,
        "rope_theta": 800000.0, "max_position_embeddings": 131072, "tie_word_embeddings": False,
    },
    "vision_config": {"num_hidden_layers": 27},
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NUMBERS = 1 << 22
"""Random numbers, repeated through all weights."""


@contextmanager
def published(values: dict[str, Any]) -> Iterator[Path]:
    """A folder with these settings and random bf16 weights; gone at the end."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(values))
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        shutil.copyfile(nano_path() / "tokenizer.json", folder / "tokenizer.json")
        _write_weights(values, folder / "model.safetensors")
        yield folder


def _write_weights(values: dict[str, Any], path: Path) -> None:
    said, none = Section(values=values), Section()
    config = kimi_config(said, none) if values["model_type"] == "kimi_vl" else qwen_config(said, none, none)
    with torch.device("meta"):
        thinker = Thinker(config, TextCodec.from_file(nano_path() / "tokenizer.json"))
    some = torch.randn(NUMBERS).mul(0.02).bfloat16()
    named = {
        name: some.repeat(-(-parameter.numel() // NUMBERS))[: parameter.numel()].view(parameter.shape)
        for name, parameter in thinker.named_parameters()
    }
    tensors = published_tensors(named, RULES[values["model_type"]], config)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
