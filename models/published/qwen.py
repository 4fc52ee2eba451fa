"""config.json, preprocessor_config.json and video_preprocessor_config.json of the Qwen-VL families as a ThinkerConfig.

Both forms are read: text settings at the top level (Qwen2-VL and Qwen2.5-VL on the hub) or under text_config, and
rotary settings as rope_theta and rope_scaling or as rope_parameters (transformers 5). What a file leaves out has the
value that transformers gives it.
"""

from typing import Any

from foveate.errors import ConfigError
from foveate.models.config import DecoderConfig, ImageConfig, MoEConfig, ThinkerConfig, VideoConfig, VisionConfig
from foveate.models.files import Values, needed

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FEEDFORWARDS = {
    "silu": "swiglu", "quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"
}  # fmt: skip
DEFAULT_THETA = {"qwen2_vl": 1e6, "qwen2_5_vl": 1e6, "qwen3_vl": 5e5, "qwen3_vl_moe": 5e5}
DEFAULT_EPS = {"qwen2_vl": 1e-5, "qwen2_5_vl": 1e-5, "qwen3_vl": 1e-6, "qwen3_vl_moe": 1e-6}


def qwen_config(values: Values, images: Values, videos: Values) -> ThinkerConfig:
    """A whole thinker from the three files. Raises ConfigError naming a key that is missing or asks for the unknown."""
    family = values["model_type"]
    vision = values.get("vision_config", {})
    text = values.get("text_config") or values
    tied = values.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    return ThinkerConfig(
        vision=_qwen3_vision(vision) if family.startswith("qwen3") else _qwen2_vision(vision, family),
        decoder=_decoder(text, family, tied),
        image=_image(images, family),
        video=_video(videos, vision, family),
        model_type=family,
    )


def _decoder(text: Values, family: str, tied: bool) -> DecoderConfig:
    if text.get("hidden_act", "silu") != "silu" or text.get("use_sliding_window"):
        raise ConfigError(f"{family} with hidden_act {text.get('hidden_act')!r} or a sliding window is not supported")
    qwen3 = family.startswith("qwen3")
    width, heads = needed(text, "hidden_size"), needed(text, "num_attention_heads")
    head_dim = text.get("head_dim") or (128 if family == "qwen3_vl" else width // heads)
    rope = _rope(text, head_dim, family)
    return DecoderConfig(
        vocab_size=needed(text, "vocab_size"),
        hidden_size=width,
        num_layers=needed(text, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        intermediate_size=needed(text, "intermediate_size"),
        mrope_section=tuple(rope["mrope_section"]),
        mrope_interleaved=qwen3,
        rope_theta=rope["rope_theta"],
        norm_eps=text.get("rms_norm_eps", DEFAULT_EPS[family]),
        qkv_bias=text.get("attention_bias", False) if qwen3 else True,
        qk_norm=qwen3,
        tie_embeddings=tied,
        moe=_moe(text) if family.endswith("_moe") else None,
    )


def _rope(text: Values, head_dim: int, family: str) -> dict[str, Any]:
    """rope_theta and mrope_section, from whichever key holds them."""
    rope = dict(text.get("rope_parameters") or text.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ConfigError(f"{family} with rope_type {kind!r} is not supported; wanted default or mrope")
    bands = [24, 20, 20] if family.startswith("qwen3") else [16, 24, 24]
    rope.setdefault("rope_theta", text.get("rope_theta", DEFAULT_THETA[family]))
    rope.setdefault("mrope_section", [band * head_dim // 128 for band in bands])
    return rope


def _moe(text: Values) -> MoEConfig:
    if text.get("decoder_sparse_step", 1) != 1 or text.get("mlp_only_layers"):
        raise ConfigError("decoder_sparse_step and mlp_only_layers other than 1 and [] are not supported")
    return MoEConfig(
        num_experts=text.get("num_local_experts") or needed(text, "num_experts"),
        top_k=needed(text, "num_experts_per_tok"),
        intermediate_size=needed(text, "moe_intermediate_size"),
    )


def _qwen2_vision(vision: Values, family: str) -> VisionConfig:
    """The towers of Qwen2-VL (everything attends to everything) and of Qwen2.5-VL (windows, gated)."""
    first = family == "qwen2_vl"
    width = vision.get("embed_dim", 1280) if first else vision.get("hidden_size", 1280)
    inner = int(width * vision.get("mlp_ratio", 4)) if first else vision.get("intermediate_size", 3420)
    depth = vision.get("depth", 32)
    whole = range(depth) if first else vision.get("fullatt_block_indexes", (7, 15, 23, 31))
    return VisionConfig(
        hidden_size=width,
        num_layers=depth,
        num_heads=vision.get("num_heads", 16),
        intermediate_size=inner,
        patch_size=vision.get("patch_size", 14),
        temporal_patch_size=vision.get("temporal_patch_size", 2),
        merge_size=vision.get("spatial_merge_size", 2),
        window_size_px=vision.get("window_size", 112),
        full_attention_layers=tuple(whole),
        stem_bias=False,
        norm="layer" if first else "rms",
        feedforward=_feedforward(vision, "quick_gelu" if first else "silu"),
        merger_activation="gelu",
    )


def _qwen3_vision(vision: Values) -> VisionConfig:
    """The tower of Qwen3-VL: a learned table of positions, and features of three layers for the decoder's first."""
    depth = vision.get("depth", 27)
    return VisionConfig(
        hidden_size=vision.get("hidden_size", 1152),
        num_layers=depth,
        num_heads=vision.get("num_heads", 16),
        intermediate_size=vision.get("intermediate_size", 4304),
        patch_size=vision.get("patch_size", 16),
        temporal_patch_size=vision.get("temporal_patch_size", 2),
        merge_size=vision.get("spatial_merge_size", 2),
        full_attention_layers=tuple(range(depth)),
        position_grid=round(vision.get("num_position_embeddings", 2304) ** 0.5),
        position_resampling="bilinear",
        norm="layer",
        feedforward=_feedforward(vision, "gelu_pytorch_tanh"),
        merger_activation="gelu",
        deep_layers=tuple(vision.get("deepstack_visual_indexes", (8, 16, 24))),
    )


def _feedforward(vision: Values, default: str) -> Any:
    name = vision.get("hidden_act", default)
    if name not in FEEDFORWARDS:
        raise ConfigError(f"hidden_act {name!r} of vision_config, wanted one of {', '.join(FEEDFORWARDS)}")
    return FEEDFORWARDS[name]


def _image(preprocessor: Values, family: str) -> ImageConfig:
    """Pixels are resampled as published: bicubic in one pass, between the smallest and largest number of pixels."""
    qwen3 = family.startswith("qwen3")
    size = preprocessor.get("size", {})
    least = preprocessor.get("min_pixels") or size.get("shortest_edge") or (65536 if qwen3 else 3136)
    most = preprocessor.get("max_pixels") or size.get("longest_edge") or (16777216 if qwen3 else 1003520)
    half = (0.5, 0.5, 0.5)
    return ImageConfig(
        min_pixels=least,
        max_pixels=most,
        mean=tuple(preprocessor.get("image_mean", half if qwen3 else CLIP_MEAN)),
        std=tuple(preprocessor.get("image_std", half if qwen3 else CLIP_STD)),
        reducing_gap=None,
    )


def _video(videos: Values, vision: Values, family: str) -> VideoConfig:
    """Frames as qwen-vl-utils takes them: two a second, each with an even share of the pixels of the whole."""
    size, qwen3 = videos.get("size") or {}, family.startswith("qwen3")
    block_px = (vision.get("patch_size", 16 if qwen3 else 14) * vision.get("spatial_merge_size", 2)) ** 2
    return VideoConfig(
        fps=videos.get("fps") or 2.0,
        min_frames=videos.get("min_frames") or 4,
        max_frames=videos.get("max_frames") or 768,
        min_pixels=size.get("shortest_edge") or (4096 if qwen3 else 128 * block_px),
        max_pixels=size.get("longest_edge") or (24576 * block_px if qwen3 else 768 * block_px),
        max_clip_pixels=None if qwen3 else int(128_000 * block_px * 0.9),
        time="text" if qwen3 else "positions" if family == "qwen2_5_vl" else "order",
        positions_per_second=vision.get("tokens_per_second", 4),
    )
