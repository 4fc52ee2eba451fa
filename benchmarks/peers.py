"""Layers of transformers, where it is installed: what whoever takes the model from there runs."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import accumulate

import torch
from torch import Tensor, nn

from foveate.benchmarks.windows import HEADS, WIDTH
from foveate.ops import Tables


def has_transformers() -> bool:
    """Whether its layers can be measured."""
    return find_spec("transformers") is not None


def window_layer(lengths: Sequence[int], angles: Tables, qkv: nn.Module, proj: nn.Module) -> Callable[[Tensor], Tensor]:
    """Qwen2.5-VL's vision attention in windows of these lengths, with these projections."""
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention

    config = Qwen2_5_VLVisionConfig(hidden_size=WIDTH, num_heads=HEADS)
    config._attn_implementation = "sdpa"  # noqa: SLF001 - what from_pretrained sets
    layer = Qwen2_5_VLVisionAttention(config).eval()
    for name, module in (("qkv", qkv), ("proj", proj)):
        setattr(layer, name, module)
    ends = torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32)
    both = tuple(torch.cat([table, table], dim=-1) for table in angles)

    def run(x_TC: Tensor) -> Tensor:
        out_TC: Tensor = layer(x_TC, cu_seqlens=ends, position_embeddings=both)
        return out_TC

    return run


def one_token(heads: int, key_heads: int, scale: float | None = None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention of a new token [B, H, D] over keys and values [B, G, C, D], as models of transformers ask for it."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    layer = nn.Module()
    layer.num_key_value_groups = heads // key_heads  # type: ignore[assignment]
    layer.is_causal = True  # type: ignore[assignment]

    def run(q_BHD: Tensor, k_BGCD: Tensor, v_BGCD: Tensor) -> Tensor:
        out_BLHD: Tensor = sdpa_attention_forward(layer, q_BHD[:, :, None], k_BGCD, v_BGCD, None, scaling=scale)[0]
        return out_BLHD[:, 0]

    return run


def experts_layer(gate_up: Tensor, down: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Qwen3-MoE's experts with these weights, as transformers computes them by itself."""
    from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    make: Callable[[object], nn.Module] = Qwen3MoeExperts
    num_experts, width, inner = down.shape
    config = Qwen3MoeConfig(num_experts=num_experts, hidden_size=width, moe_intermediate_size=inner)
    config._experts_implementation = "grouped_mm"  # noqa: SLF001 - what from_pretrained sets
    with torch.device("meta"):
        layer: nn.Module = make(config).eval()
    layer.gate_up_proj, layer.down_proj = (nn.Parameter(x, requires_grad=False) for x in (gate_up, down))

    def run(x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        out_TD: Tensor = layer(x_TD, experts_TK, weights_TK.to(x_TD.dtype))
        return out_TD

    return run
