"""Which published tensors make up each parameter of ours, as data.

A rule names a parameter of ours and the published tensors that stand one after another in its rows. A star stands for
one part of a name, the same on both sides; a # in a published name for each expert in turn. Published names differ by
prefixes between the hub and the versions of transformers; `normalized` takes those away.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveate.errors import CheckpointError
from foveate.models.config import ThinkerConfig
from foveate.models.published.turning import Order, row_order


@dataclass(frozen=True)
class Rule:
    """A parameter of ours and where it comes from."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False
    """Whether the published tensor has its last two dimensions the other way round."""
    order: Order | None = None
    """In which order the published rows stand here; as they are when None."""


PREFIXES = (
    ("model.language_model.", "language."),
    ("model.visual.", "visual."),
    ("language_model.model.", "language."),
    ("language_model.lm_head.", "lm_head."),
    ("model.", "language."),
)

DECODER = (
    Rule("decoder.embed.weight", ("language.embed_tokens.weight",)),
    Rule("decoder.norm.weight", ("language.norm.weight",)),
    Rule("decoder.head.weight", ("lm_head.weight",)),
    Rule("decoder.blocks.*.norm1.weight", ("language.layers.*.input_layernorm.weight",)),
    Rule("decoder.blocks.*.norm2.weight", ("language.layers.*.post_attention_layernorm.weight",)),
    Rule("decoder.blocks.*.attn.proj.*", ("language.layers.*.self_attn.o_proj.*",)),
    Rule(
        "decoder.blocks.*.mlp.gate_up.weight",
        ("language.layers.*.mlp.gate_proj.weight", "language.layers.*.mlp.up_proj.weight"),
    ),
    Rule("decoder.blocks.*.mlp.down.weight", ("language.layers.*.mlp.down_proj.weight",)),
    Rule("decoder.blocks.*.mlp.router.weight", ("language.layers.*.mlp.gate.weight",)),
)
QWEN_DECODER = (
    *DECODER,
    Rule(
        "decoder.blocks.*.attn.qkv.*",
        tuple(f"language.layers.*.self_attn.{part}_proj.*" for part in ("q", "k", "v")),
    ),
    Rule("decoder.blocks.*.attn.*_norm.weight", ("language.layers.*.self_attn.*_norm.weight",)),
    Rule("decoder.blocks.*.mlp.gate_up", ("language.layers.*.mlp.experts.gate_up_proj",), transposed=True),
    Rule("decoder.blocks.*.mlp.down", ("language.layers.*.mlp.experts.down_proj",), transposed=True),
)
DEEPSEEK_DECODER = (
    *DECODER,
    Rule("decoder.blocks.*.attn.q.weight", ("language.layers.*.self_attn.q_proj.weight",), order="queries"),
    Rule(
        "decoder.blocks.*.attn.kv_down.weight", ("language.layers.*.self_attn.kv_a_proj_with_mqa.weight",), order="key"
    ),
    Rule("decoder.blocks.*.attn.kv_norm.weight", ("language.layers.*.self_attn.kv_a_layernorm.weight",)),
    Rule("decoder.blocks.*.attn.kv_up.weight", ("language.layers.*.self_attn.kv_b_proj.weight",)),
    Rule("decoder.blocks.*.mlp.correction_bias", ("language.layers.*.mlp.gate.e_score_correction_bias",)),
    Rule(
        "decoder.blocks.*.mlp.gate_up",
        tuple(f"language.layers.*.mlp.experts.#.{part}_proj.weight" for part in ("gate", "up")),
    ),
    Rule("decoder.blocks.*.mlp.down", ("language.layers.*.mlp.experts.#.down_proj.weight",)),
    Rule(
        "decoder.blocks.*.mlp.shared.gate_up.weight",
        tuple(f"language.layers.*.mlp.shared_experts.{part}_proj.weight" for part in ("gate", "up")),
    ),
    Rule("decoder.blocks.*.mlp.shared.down.weight", ("language.layers.*.mlp.shared_experts.down_proj.weight",)),
)
QWEN_TOWER = (
    Rule("vision.stem.*", ("visual.patch_embed.proj.*",)),
    Rule("vision.blocks.*.norm*.*", ("visual.blocks.*.norm*.*",)),
    Rule("vision.blocks.*.attn.*.*", ("visual.blocks.*.attn.*.*",)),
)
QWEN2_MERGER = (
    Rule("vision.merger.norm.*", ("visual.merger.ln_q.*",)),
    Rule("vision.merger.up.*", ("visual.merger.mlp.0.*",)),
    Rule("vision.merger.down.*", ("visual.merger.mlp.2.*",)),
)
QWEN2_MLP = (
    Rule("vision.blocks.*.mlp.up.*", ("visual.blocks.*.mlp.fc1.*",)),
    Rule("vision.blocks.*.mlp.down.*", ("visual.blocks.*.mlp.fc2.*",)),
)
QWEN2_5_MLP = (
    Rule("vision.blocks.*.mlp.gate_up.*", ("visual.blocks.*.mlp.gate_proj.*", "visual.blocks.*.mlp.up_proj.*")),
    Rule("vision.blocks.*.mlp.down.*", ("visual.blocks.*.mlp.down_proj.*",)),
)
QWEN3_TOWER = (
    *QWEN_TOWER,
    Rule("vision.positions", ("visual.pos_embed.weight",)),
    Rule("vision.blocks.*.mlp.up.*", ("visual.blocks.*.mlp.linear_fc1.*",)),
    Rule("vision.blocks.*.mlp.down.*", ("visual.blocks.*.mlp.linear_fc2.*",)),
    Rule("vision.merger.norm.*", ("visual.merger.norm.*",)),
    Rule("vision.merger.up.*", ("visual.merger.linear_fc1.*",)),
    Rule("vision.merger.down.*", ("visual.merger.linear_fc2.*",)),
    Rule("vision.deep_mergers.*.norm.*", ("visual.deepstack_merger_list.*.norm.*",)),
    Rule("vision.deep_mergers.*.up.*", ("visual.deepstack_merger_list.*.linear_fc1.*",)),
    Rule("vision.deep_mergers.*.down.*", ("visual.deepstack_merger_list.*.linear_fc2.*",)),
)
MOONVIT = (
    Rule("vision.stem.*", ("vision_tower.patch_embed.proj.*",)),
    Rule("vision.positions", ("vision_tower.patch_embed.pos_emb.weight",)),
    Rule("vision.blocks.*.norm1.*", ("vision_tower.encoder.blocks.*.norm0.*",)),
    Rule("vision.blocks.*.norm2.*", ("vision_tower.encoder.blocks.*.norm1.*",)),
    Rule("vision.blocks.*.attn.qkv.*", ("vision_tower.encoder.blocks.*.wqkv.*",), order="tower"),
    Rule("vision.blocks.*.attn.proj.*", ("vision_tower.encoder.blocks.*.wo.*",)),
    Rule("vision.blocks.*.mlp.up.*", ("vision_tower.encoder.blocks.*.mlp.fc0.*",)),
    Rule("vision.blocks.*.mlp.down.*", ("vision_tower.encoder.blocks.*.mlp.fc1.*",)),
    Rule("vision.norm.*", ("vision_tower.encoder.final_layernorm.*",)),
    Rule("vision.merger.norm.*", ("multi_modal_projector.pre_norm.*",)),
    Rule("vision.merger.up.*", ("multi_modal_projector.linear_1.*",)),
    Rule("vision.merger.down.*", ("multi_modal_projector.linear_2.*",)),
)
RULES = {
    "qwen2_vl": (*QWEN_DECODER, *QWEN_TOWER, *QWEN2_MLP, *QWEN2_MERGER),
    "qwen2_5_vl": (*QWEN_DECODER, *QWEN_TOWER, *QWEN2_5_MLP, *QWEN2_MERGER),
    "qwen3_vl": (*QWEN_DECODER, *QWEN3_TOWER),
    "qwen3_vl_moe": (*QWEN_DECODER, *QWEN3_TOWER),
    "kimi_vl": (*DEEPSEEK_DECODER, *MOONVIT),
}
"""By model_type of config.json."""


def normalized(name: str) -> str:
    """A published name as the rules write it."""
    for prefix, short in PREFIXES:
        if name.startswith(prefix):
            return short + name.removeprefix(prefix)
    return name


def sources(name: str, rules: Iterable[Rule], config: ThinkerConfig) -> Rule:
    """The rule of one parameter of ours, filled in. Raises CheckpointError when there is none."""
    for rule in rules:
        if found := re.fullmatch(re.escape(rule.ours).replace(r"\*", r"([^.]+)"), name):
            theirs = [_filled(pattern, found.groups()) for pattern in rule.theirs]
            if any("#" in pattern for pattern in theirs):
                experts = range(config.decoder.moe.num_experts if config.decoder.moe else 0)
                theirs = [pattern.replace("#", str(expert)) for expert in experts for pattern in theirs]
            return replace(rule, ours=name, theirs=tuple(theirs))
    raise CheckpointError(f"no published tensor is known for the parameter {name}")


def _filled(pattern: str, values: tuple[str, ...]) -> str:
    pieces = pattern.split("*")
    return "".join(piece + value for piece, value in zip(pieces, (*values, ""), strict=True))


def published_tensors(named: dict[str, Tensor], rules: Iterable[Rule], config: ThinkerConfig) -> dict[str, Tensor]:
    """Parameters of ours under their published names and in their published shapes, with the hub's prefixes."""
    out = {}
    for name, tensor in named.items():
        rule = sources(name, rules, config)
        turned = tensor.transpose(-1, -2) if rule.transposed else tensor
        if rule.order is not None:
            turned = turned[row_order(rule.order, config).argsort()]
        shapes = published_shapes(rule, turned.shape, config)
        rows = turned.flatten(0, 1) if tensor.dim() == 3 and len(shapes) > 1 else turned
        parts = rows.split([shape[0] for shape in shapes]) if len(shapes) > 1 else (rows,)
        for theirs, shape, part in zip(rule.theirs, shapes, parts, strict=True):
            out[hub_name(theirs, config.model_type)] = part.reshape(shape)
    return out


def hub_name(name: str, family: str) -> str:
    """A name as the rules write it with the prefixes of the family's files on the hub."""
    prefixes = {"qwen3": ("model.language_model.", ""), "kimi_": ("language_model.model.", "language_model.")}
    language, head = prefixes.get(family[:5], ("model.", ""))
    if name.startswith("language."):
        return language + name.removeprefix("language.")
    if name.startswith("lm_head."):
        return head + name
    return f"model.{name}" if family.startswith("qwen3") else name


def published_shapes(rule: Rule, shape: torch.Size, config: ThinkerConfig) -> list[torch.Size]:
    """Of the published tensors that make up a parameter of this shape."""
    vision, is_qwen = config.vision, config.model_type.startswith("qwen")
    if len(rule.theirs) > 1:
        return [torch.Size((rows, *shape[1:][-1:])) for rows in _rows(rule, shape, config)]
    if rule.ours == "vision.stem.weight" and config.model_type in RULES:
        frames = (vision.temporal_patch_size,) if is_qwen else ()
        return [torch.Size((shape[0], 3, *frames, vision.patch_size, vision.patch_size))]
    if rule.ours == "vision.positions" and is_qwen:
        return [torch.Size((vision.position_grid**2, shape[-1]))]
    return [shape]


def _rows(rule: Rule, shape: torch.Size, config: ThinkerConfig) -> list[int]:
    """How many rows of a parameter come from each published tensor."""
    if ".attn.qkv." in rule.ours:
        decoder = config.decoder
        return [heads * decoder.head_dim for heads in (decoder.num_heads, decoder.num_kv_heads, decoder.num_kv_heads)]
    rows = shape[:-1].numel() if len(shape) > 1 else shape[0]
    return [rows // len(rule.theirs)] * len(rule.theirs)
