"""Foveate's operations under models of transformers, which stay as they are otherwise.

`accelerate(model)` marks the modules of a model whose attention is transformers' "sdpa" and whose experts are its
"grouped_mm" or "batched_mm", puts functions in the place of those three that ask for the mark, and lets the vision
attention of the Qwen families take all windows of a picture in one call instead of one by one. Attention is ours where
all tokens ask (heads up to 128, of keys and values alike) and where one new token of each sequence asks a cache. What
the operations do not serve (a mask, a sliding window, dropout, other gates, other dtypes, a GPU) goes where it went
before; only the vision attention of those families is ours everywhere. No name of an implementation changes: models
build sparse masks, and slice, by that name (DeepSeek V3.2, Gemma 4), and those that refuse SDPA keep what they have.

Shape letters: B batch, T tokens, H query heads, G key heads, L length, D head dimension, E of values; N patches, W
width.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foveate.errors import ConfigError
from foveate.extras import from_extra
from foveate.ops import (
    Packing,
    decode_attention,
    experts_forward,
    is_served,
    packed_attention,
    wants_gradient,
    window_attention,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MARK = "runs_foveate"
"""What a module has whose operations are ours where they can."""
EXPERTS = ("grouped_mm", "batched_mm")
"""Ways of transformers to compute experts that ours goes before."""
LARGEST_HEAD = 128
VISION = ("VisionAttention", "Qwen2_5_VLVisionAttention", "Qwen3VLVisionAttention", "Qwen3VLMoeVisionAttention")
"""Classes of transformers whose forward is the one of `_vision_forward`: one projection, rotation, windows by ends."""
SILU = ("SiLU", "SiLUActivation")
GATE = "_apply_gate"
"""What transformers gives to every class of experts whose implementation can be set."""


def accelerate(model: "PreTrainedModel") -> list[str]:
    """Let a model of transformers run with Foveate's operations, in place; its results stay the same but for rounding.

    Returns:
        What was changed, in words.

    Raises:
        ConfigError: transformers is not installed, or this is not one of its models.
    """
    with from_extra("hub", "transformers"):
        from transformers import PreTrainedModel
    if not isinstance(model, PreTrainedModel):
        raise ConfigError(f"accelerate got a {type(model).__name__}; it wants a model of transformers")
    _register()
    changed = []
    if any(isinstance(module, PreTrainedModel) and _asks_for_sdpa(module) for module in model.modules()):
        changed.append("attention")
    is_ours = [hasattr(module, GATE) and _is_swiglu(module) for module in model.modules()]
    if any(is_ours) and not set(EXPERTS).isdisjoint(model.get_experts_implementation().values()):
        changed.append("experts")
    for module in model.modules():
        setattr(module, MARK, True)
    towers = [module for module in model.modules() if type(module).__name__ in VISION]
    for module in towers:
        module.forward = partial(_vision_forward, module)
    if towers:
        changed.append(f"{len(towers)} layers of vision attention")
    return changed


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    AttentionInterface.register("sdpa", attention)
    for way in EXPERTS:
        ALL_EXPERTS_FUNCTIONS.register(way, partial(experts, way))


def _asks_for_sdpa(model: Any) -> bool:
    """Whether a model, or a part of one, finds its attention by name, and that name is "sdpa"."""
    return bool(model._can_set_attn_implementation() and model.config._attn_implementation == "sdpa")  # noqa: SLF001 - no public way


def attention(
    module: nn.Module,
    query_BHLD: Tensor,
    key_BGLD: Tensor,
    value_BGLD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, [B, H, L, D] -> [B, L, H, D]; what we do not serve goes to its SDPA."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    dtypes = {x.dtype for x in (query_BHLD, key_BGLD, value_BGLD)}  # under autocast they may differ
    plain = attention_mask is None and not dropout and all(value is None for value in _biases(others))
    plain = plain and key_BGLD.shape[0] == value_BGLD.shape[0] == query_BHLD.shape[0]
    if getattr(module, MARK, False) and plain and len(dtypes) == 1 and is_served(query_BHLD):
        if _is_one_token(query_BHLD, key_BGLD, value_BGLD):
            return _over_cache(query_BHLD, key_BGLD, value_BGLD, scaling), None
        if _is_whole(query_BHLD, key_BGLD, value_BGLD):
            return _packed(query_BHLD, key_BGLD, value_BGLD, scaling, causal=causal), None
    return sdpa_attention_forward(
        module, query_BHLD, key_BGLD, value_BGLD, attention_mask, dropout=dropout, scaling=scaling,
        is_causal=is_causal, **others,
    )  # fmt: skip


def _is_one_token(query_BHLD: Tensor, *cache: Tensor) -> bool:
    """Whether a new token of each sequence asks, of rows that the kernel can read, and nothing is learned."""
    is_laid_out = all(x.stride(-1) == 1 for x in cache)
    return query_BHLD.shape[2] == 1 and is_laid_out and not wants_gradient(query_BHLD, *cache)


def _over_cache(q_BHLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor, scaling: float | None) -> Tensor:
    batch, capacity = k_BGLD.shape[0], k_BGLD.shape[2]
    slots_B = torch.arange(batch)
    k, v = (x.transpose(1, 2) for x in (k_BGLD, v_BGLD))
    out_BHE = decode_attention(q_BHLD[:, :, 0], k, v, slots_B, torch.full_like(slots_B, capacity), capacity, scaling)
    return out_BHE[:, None]


def _is_whole(query_BHLD: Tensor, key_BGLD: Tensor, value_BGLD: Tensor) -> bool:
    """Whether each token asks, in heads of one size that the kernel takes."""
    _, _, length, dim = query_BHLD.shape
    return key_BGLD.shape[2] == length and key_BGLD.shape[-1] == value_BGLD.shape[-1] == dim <= LARGEST_HEAD


def _packed(q_BHLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor, scaling: float | None, *, causal: bool) -> Tensor:
    batch, _, length, dim = q_BHLD.shape
    if scaling is not None and scaling != dim**-0.5:
        q_BHLD = q_BHLD * (scaling * dim**0.5)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHLD, k_BGLD, v_BGLD))
    out_THD = packed_attention(q, k, v, Packing([length] * batch), causal=causal)
    out_BLHD: Tensor = out_THD.unflatten(0, (batch, length))
    return out_BLHD


def _biases(others: dict[str, Any]) -> list[Any]:
    """What would change the scores; a sliding window comes with a mask once a sequence is longer than it."""
    return [others.get(name) for name in ("softcap", "s_aux", "position_bias")]


def experts(way: str, self: Any, x_TW: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Routed experts as transformers calls them, [T, W] -> [T, W]; others than SwiGLU's go its own way."""
    ours = getattr(self, MARK, False) and _is_swiglu(self) and not self._is_expert_parallel
    if ours and x_TW.dtype == self.gate_up_proj.dtype and is_served(x_TW):
        return experts_forward(x_TW, experts_TK, weights_TK, self.gate_up_proj, self.down_proj)
    from transformers.integrations import moe

    theirs = {"grouped_mm": moe.grouped_mm_experts_forward, "batched_mm": moe.batched_mm_experts_forward}
    out_TW: Tensor = theirs[way](self, x_TW, experts_TK, weights_TK)
    return out_TW


def _is_swiglu(experts: Any) -> bool:
    """Whether a layer's experts are silu(gate) * up with their weights in the order that ours reads."""
    from transformers.integrations.moe import _default_apply_gate

    usual = experts.has_gate and experts.is_concatenated
    usual = usual and not (experts.is_transposed or experts.has_bias or experts.has_post_expert_norm)
    silu = getattr(type(experts), GATE) is _default_apply_gate and type(experts.act_fn).__name__ in SILU
    return bool(usual and silu)


def _vision_forward(
    self: Any,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **_others: Any,
) -> Tensor:
    """[N, W] -> [N, W]: all windows of all pictures in one call."""
    half = position_embeddings[0].shape[-1] // 2
    cos_NF, sin_NF = (table[:, :half].float() for table in position_embeddings)
    packing = Packing(cu_seqlens.diff().tolist())
    out_NW: Tensor = self.proj(window_attention(self.qkv(hidden_states), (cos_NF, sin_NF), packing, self.num_heads))
    return out_NW
