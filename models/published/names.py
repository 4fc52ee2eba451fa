"""Which published tensors make up each parameter of ours, as data.

A rule names a parameter of ours and the published tensors that stand one after another in its first dimension. A star
stands for one part of a name, the same on both sides. Published names differ by prefixes between the hub and the
versions of transformers; `normalized` takes those away.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from foveate.errors import CheckpointError
from foveate.models.config import ThinkerConfig


@dataclass(frozen=True)
class Rule:
    """A parameter of ours and where it comes from."""

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False
    """Whether the published tensor has its last two dimensions the other way round."""


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
    Rule(
        "decoder.blocks.*.attn.qkv.*",
        tuple(f"language.layers.*.self_attn.{part}_proj.*" for part in ("q", "k", "v")),
    ),
    Rule("decoder.blocks.*.attn.proj.*", ("language.layers.*.self_attn.o_proj.*",)),
    Rule("decoder.blocks.*.attn.*_norm.weight", ("language.layers.*.self_attn.*_norm.weight",)),
    Rule(
        "decoder.blocks.*.mlp.gate_up.weight",
        ("language.layers.*.mlp.gate_proj.weight", "language.layers.*.mlp.up_proj.weight"),
    ),
    Rule("decoder.blocks.*.mlp.down.weight", ("language.layers.*.mlp.down_proj.weight",)),
)
EXPERTS = (
    Rule("decoder.blocks.*.mlp.router.weight", ("language.layers.*.mlp.gate.weight",)),
    Rule("decoder.blocks.*.mlp.gate_up", ("language.layers.*.mlp.experts.gate_up_proj",), transposed=True),
    Rule("decoder.blocks.*.mlp.down", ("language.layers.*.mlp.experts.down_proj",), transposed=True),
)
TOWER = (
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
RULES = {
    "qwen2_vl": (*DECODER, *TOWER, *QWEN2_MLP, *QWEN2_MERGER),
    "qwen2_5_vl": (*DECODER, *TOWER, *QWEN2_5_MLP, *QWEN2_MERGER),
    "qwen3_vl": (*DECODER, *TOWER, *QWEN3_TOWER),
    "qwen3_vl_moe": (*DECODER, *EXPERTS, *TOWER, *QWEN3_TOWER),
}
"""By model_type of config.json."""


def normalized(name: str) -> str:
    """A published name as the rules write it."""
    for prefix, short in PREFIXES:
        if name.startswith(prefix):
            return short + name.removeprefix(prefix)
    return name


def sources(name: str, rules: Iterable[Rule]) -> Rule:
    """The rule of one parameter of ours with its stars filled in. Raises CheckpointError when there is none."""
    for rule in rules:
        if found := re.fullmatch(re.escape(rule.ours).replace(r"\*", r"([^.]+)"), name):
            theirs = (_filled(pattern, found.groups()) for pattern in rule.theirs)
            return Rule(name, tuple(theirs), rule.transposed)
    raise CheckpointError(f"no published tensor is known for the parameter {name}")


def _filled(pattern: str, values: tuple[str, ...]) -> str:
    pieces = pattern.split("*")
    return "".join(piece + value for piece, value in zip(pieces, (*values, ""), strict=True))


def published_tensors(named: dict[str, Tensor], rules: Iterable[Rule], config: ThinkerConfig) -> dict[str, Tensor]:
    """Parameters of ours under their published names and in their published shapes, with the hub's prefixes."""
    out = {}
    for name, tensor in named.items():
        rule = sources(name, rules)
        turned = tensor.transpose(-1, -2) if rule.transposed else tensor
        for theirs, part in zip(rule.theirs, turned.split(_rows(name, turned, config)), strict=True):
            out[hub_name(theirs, config.model_type)] = part.reshape(_published_shape(name, part, config))
    return out


def hub_name(name: str, family: str) -> str:
    """A name as the rules write it with the prefixes of the family's files on the hub."""
    newer = family.startswith("qwen3")
    if name.startswith("language."):
        return ("model.language_model." if newer else "model.") + name.removeprefix("language.")
    return f"model.{name}" if newer and name.startswith("visual.") else name


def _rows(name: str, tensor: Tensor, config: ThinkerConfig) -> int | list[int]:
    """How a parameter's first dimension falls into the published tensors."""
    decoder = config.decoder
    if name.startswith("decoder.") and ".attn.qkv." in name:
        return [heads * decoder.head_dim for heads in (decoder.num_heads, decoder.num_kv_heads, decoder.num_kv_heads)]
    if ".gate_up." in name:
        return len(tensor) // 2
    return len(tensor)


def _published_shape(name: str, tensor: Tensor, config: ThinkerConfig) -> tuple[int, ...]:
    vision = config.vision
    if name == "vision.stem.weight":
        return (-1, 3, vision.temporal_patch_size, vision.patch_size, vision.patch_size)
    return (vision.position_grid**2, -1) if name == "vision.positions" else tuple(tensor.shape)
