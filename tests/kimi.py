"""A tiny random Kimi-VL folder in its published form, and what transformers says of the same weights.

transformers has no kimi_vl; its kimi_k25 holds the same decoder, and a tower whose case of one frame is MoonViT. The
published names are written here, since its own way back to them (5.24) renames the decoder's layers too.
"""

import base64
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import qwen
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.models.kimi_k25.modeling_kimi_k25 import Kimi_K25ForConditionalGeneration

TEXT = {
    "vocab_size": 640, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 3, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 24, "first_k_dense_replace": 1, "kv_lora_rank": 32, "q_lora_rank": None,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "routed_scaling_factor": 2.446,
    "norm_topk_prob": True, "rms_norm_eps": 1e-2, "tie_word_embeddings": False, "max_position_embeddings": 4096,
}  # fmt: skip
THETA = 50_000.0
PIXELS = {"in_token_limit": 400, "pad_input": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
VISION = {
    "patch_size": 14,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
}
NAMES = {
    "model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head.",
    "model.mm_projector.pre_norm.": "multi_modal_projector.pre_norm.",
    "model.mm_projector.in_proj.": "multi_modal_projector.linear_1.",
    "model.mm_projector.out_proj.": "multi_modal_projector.linear_2.",
    "model.vision_tower.patch_embed.pos_emb.position_embeddings": "vision_tower.patch_embed.pos_emb.weight",
    "model.vision_tower.patch_embed.": "vision_tower.patch_embed.",
    "model.vision_tower.final_layernorm.": "vision_tower.encoder.final_layernorm.",
    "model.vision_tower.layers.": "vision_tower.encoder.blocks.",
}  # fmt: skip
"""The beginnings of names in transformers and in the published files."""
LAYER = {
    ".norm1.": ".norm0.",
    ".norm2.": ".norm1.",
    ".attn.proj.": ".wo.",
    ".mlp.fc1.": ".mlp.fc0.",
    ".mlp.fc2.": ".mlp.fc1.",
}
BASE = 320
"""Pieces of the vocabulary; control tokens follow."""
CONTROLS = {
    "[BOS]": 0, "[EOS]": 1, "<|im_end|>": 2, "<|im_user|>": 3, "<|im_assistant|>": 4, "<|im_system|>": 10,
    "<|media_start|>": 18, "<|media_end|>": 19, "<|media_content|>": 20, "<|media_pad|>": 21, "<|im_middle|>": 17,
}  # fmt: skip
TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}<|im_system|>system<|im_middle|>Be helpful.<|im_end|>{%- endif -%}
<|im_{{ message['role'] }}|>{{ message['role'] }}<|im_middle|>
{%- if message['content'] is string -%}{{ message['content'] }}<|im_end|>
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|media_start|>image<|media_content|><|media_pad|><|media_end|>
{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}<|im_end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}
"""


def ranks() -> dict[bytes, int]:
    """A vocabulary of bytes and merges, as pieces and their ranks."""
    merges = json.loads(qwen.tokenizer().backend_tokenizer.to_str())["model"]["merges"]
    text = ["".join(pair) for pair in merges]
    pieces = [bytes([byte]) for byte in range(256)]
    pieces += [merged.replace("Ġ", " ").encode() for merged in text if merged.replace("Ġ", " ").isascii()]
    pieces += [bytes([255, number]) for number in range(BASE - len(pieces))]
    return {piece: rank for rank, piece in enumerate(pieces[:BASE])}


def write_ranks(path: Path) -> None:
    path.write_text("\n".join(f"{base64.b64encode(piece).decode()} {rank}" for piece, rank in ranks().items()))


def encoded(text: str, cuts: str) -> list[int]:
    """Ids by the definition of byte-pair encoding: the pair of lowest rank is merged first."""
    import regex

    known, ids = ranks(), []
    for word in regex.findall(cuts, text, flags=regex.V1):
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            pairs = [known.get(left + right, BASE) for left, right in pairwise(parts)]
            if min(pairs) == BASE:
                break
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [known[part] for part in parts]
    return ids


def save(folder: Path) -> nn.Module:
    """Write the folder; returns the model of transformers with the same weights."""
    torch.manual_seed(1)
    rope = {"rope_type": "default", "rope_theta": THETA}
    config = transformers.Kimi_K25Config(
        text_config={"model_type": "deepseek_v3", **TEXT, "rope_parameters": rope},
        vision_config={**VISION, "pos_emb_height": 16, "pos_emb_width": 16}, image_token_id=BASE + 21,
        projection_hidden_size=64, tie_word_embeddings=False,
    )  # fmt: skip
    model: nn.Module = Kimi_K25ForConditionalGeneration(config).eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and "inv_freq" not in name and "time_position" not in name:
            tensor.data += torch.randn_like(tensor) * 0.1
    save_file(published(model), folder / "model.safetensors")
    settings = {
        "model_type": "kimi_vl", "auto_map": {"AutoConfig": "configuration_kimi_vl.KimiVLConfig"},
        "media_placeholder_token_id": BASE + 21, "text_config": TEXT | {"rope_theta": THETA},
        "vision_config": VISION | {"init_pos_emb_height": 16, "init_pos_emb_width": 16, "merge_kernel_size": [2, 2]},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": BASE + 2}))
    added = {str(BASE + offset): {"content": name, "special": True} for name, offset in CONTROLS.items()}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": added, "chat_template": TEMPLATE})
    )
    write_ranks(folder / "tiktoken.model")
    return model


def published(model: nn.Module) -> dict[str, Tensor]:
    """The weights by their published names: experts one by one, pairs of the tower's queries and keys side by side."""
    out: dict[str, Tensor] = {}
    state = model.state_dict()
    for name, tensor in state.items():
        start = next(start for start in NAMES if name.startswith(start))
        written = NAMES[start] + name.removeprefix(start)
        if name.endswith("experts.gate_up_proj"):
            for expert, (gate, up) in enumerate(rows.chunk(2) for rows in tensor):
                out |= {written.replace("gate_up_proj", f"{expert}.gate_proj.weight"): gate}
                out |= {written.replace("gate_up_proj", f"{expert}.up_proj.weight"): up}
        elif name.endswith("experts.down_proj"):
            out |= {
                written.replace("down_proj", f"{expert}.down_proj.weight"): down for expert, down in enumerate(tensor)
            }
        elif ".vision_tower." in name and ".attn.q_proj." in name:
            k, v = (state[name.replace("q_proj", part)] for part in ("k_proj", "v_proj"))
            out[written.replace("attn.q_proj", "wqkv")] = torch.cat([_side_by_side(tensor), _side_by_side(k), v])
        elif ".vision_tower." not in name or not (".attn.k_proj." in name or ".attn.v_proj." in name):
            part = next((part for part in LAYER if part in name and ".vision_tower.layers." in name), "")
            out[written.replace(part, LAYER.get(part, ""))] = tensor
    return {name: tensor.clone().contiguous() for name, tensor in out.items()}


def _side_by_side(rows: Tensor) -> Tensor:
    """Rows of each head with the two numbers of a pair as neighbours, from heads that are split in halves."""
    heads = VISION["num_attention_heads"]
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def raster(patches_NP: Tensor, rows: int, columns: int) -> Tensor:
    """Patches in block order as [N, 3, 14, 14], row after row."""
    blocks = patches_NP.view(rows // 2, columns // 2, 2, 2, 3, 14, 14)
    return blocks.transpose(1, 2).reshape(rows * columns, 3, 14, 14)


@torch.no_grad()
def logits(model: nn.Module, token_ids_T: Tensor, images: Sequence[Any]) -> Tensor:
    """Of one conversation, from pixels that a processor of ours made."""
    dtype = next(model.parameters()).dtype
    pixels = {
        "pixel_values": torch.cat([raster(image.patches_NP, image.grid.h, image.grid.w) for image in images]).to(dtype),
        "image_grid_thw": torch.tensor([[1, image.grid.h, image.grid.w] for image in images]),
    } if images else {}  # fmt: skip
    out: Tensor = model(input_ids=token_ids_T[None], **pixels).logits[0]
    return out
