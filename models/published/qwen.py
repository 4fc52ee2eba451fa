"""config.json, preprocessor_config.json and video_preprocessor_config.json of the Qwen-VL families as a ThinkerConfig.

Both forms are read: text settings at the top level (Qwen2-VL and Qwen2.5-VL on the hub) or under text_config, and
rotary settings as rope_theta and rope_scaling or as rope_parameters (transformers 5). What a file leaves out has the
value that transformers gives it.
"""

import math
from typing import Any

from foveate.errors import CheckpointError
from foveate.models.config import (
    DecoderConfig,
    ImageConfig,
    MoEConfig,
    ThinkerConfig,
    VideoConfig,
    VisionConfig,
    YarnConfig,
)
from foveate.models.files import Section

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FEEDFORWARDS = {
    "silu": "swiglu", "quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"
}  # fmt: skip
DEFAULT_THETA = {"qwen2_vl": 1e6, "qwen2_5_vl": 1e6, "qwen3_vl": 5e5, "qwen3_vl_moe": 5e5}
DEFAULT_EPS = {"qwen2_vl": 1e-5, "qwen2_5_vl": 1e-5, "qwen3_vl": 1e-6, "qwen3_vl_moe": 1e-6}


def qwen_config(config: Section, images: Section, videos: Section) -> ThinkerConfig:
    """A whole thinker from the three files.

    Raises CheckpointError naming a key that is missing, is of another type or asks for the unknown, and ConfigError for
    sizes that do not fit each other.
    """
    family = config.need("model_type", str)
    vision, text = config.section("vision_config"), config.section("text_config") or config
    tower = _qwen3_vision(vision) if family.startswith("qwen3") else _qwen2_vision(vision, family)
    check_pixels(images, tower)
    check_pixels(videos, tower)
    image = _image(images, family)
    videos.only(image_mean=list(image.mean), image_std=list(image.std))
    return ThinkerConfig(
        vision=tower,
        decoder=_decoder(text, family, _tied(config, text, family)),
        image=image,
        video=_video(videos, vision, family),
        model_type=family,
    )


def _tied(config: Section, text: Section, family: str) -> bool:
    """As transformers: Qwen3-VL says it beside text_config alone, the older families there or inside."""
    outside = config.get("tie_word_embeddings", bool, False)
    return outside or (not family.startswith("qwen3") and text.get("tie_word_embeddings", bool, False))


def check_pixels(preprocessor: Section, vision: VisionConfig) -> None:
    """Raises CheckpointError where a file asks for pixels that are made in another way, or for another tower."""
    preprocessor.only(
        do_resize=True, resample=3, do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
        patch_size=vision.patch_size, temporal_patch_size=vision.temporal_patch_size, merge_size=vision.merge_size,
    )  # fmt: skip


def _decoder(text: Section, family: str, tied: bool) -> DecoderConfig:
    text.only(hidden_act="silu")
    qwen3 = family.startswith("qwen3")
    width, heads = text.need("hidden_size", int), text.need("num_attention_heads", int)
    layers = text.need("num_hidden_layers", int)
    rope = _rope(text)
    head_dim = text.get("head_dim", int, 128 if family == "qwen3_vl" else width // heads)
    bias = qwen3 and text.get("attention_bias", bool, False)
    if not qwen3:
        _check_no_layer_slides(text, layers)
    return DecoderConfig(
        vocab_size=text.need("vocab_size", int),
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=text.get("num_key_value_heads", int, heads),
        head_dim=head_dim,
        intermediate_size=text.need("intermediate_size", int),
        mrope_section=rope.get("mrope_section", tuple[int, int, int], _bands(head_dim, family)),
        mrope_interleaved=qwen3,
        rope_theta=rope_theta(rope, text, DEFAULT_THETA[family]),
        rope_yarn=_yarn(rope, text) if _kind(rope) == "yarn" else None,
        norm_eps=text.get("rms_norm_eps", float, DEFAULT_EPS[family]),
        qkv_bias=bias or not qwen3,
        out_bias=bias,
        qk_norm=qwen3,
        tie_embeddings=tied,
        moe=_moe(text, width) if family.endswith("_moe") else None,
        dense_layers=_dense_layers(text, layers) if family.endswith("_moe") else (),
    )


def _check_no_layer_slides(text: Section, num_layers: int) -> None:
    """Raises CheckpointError for a decoder whose layers see only the last tokens."""
    if any(kind != "full_attention" for kind in text.get("layer_types", tuple[str, ...], ())):
        raise CheckpointError(f"{text.where}: layer_types has others than 'full_attention'; only that is supported")
    if text.get("use_sliding_window", bool, False) and text.values.get("sliding_window", 4096) is not None:
        first = text.get("max_window_layers", int, 80, least=0)
        if first < num_layers:
            raise CheckpointError(
                f"{text.where}: use_sliding_window is true and max_window_layers is {first}, wanted {num_layers} or "
                "more (all layers): sliding windows are not supported"
            )


def _rope(text: Section) -> Section:
    """The rotary settings, from whichever key holds them."""
    rope = text.section("rope_scaling") or text.section("rope_parameters")  # where both stand, as in transformers
    if _kind(rope) not in ("default", "mrope", "yarn"):
        raise CheckpointError(f"{rope.where}: rope_type is {_kind(rope)!r}, wanted default, mrope or yarn")
    return rope


def _kind(rope: Section) -> str:
    return rope.get("rope_type", str, rope.get("type", str, "default"))


def _yarn(rope: Section, text: Section) -> YarnConfig:
    """A longer context, with transformers' defaults."""
    factor = rope.need("factor", float)
    if factor < 1:
        raise CheckpointError(f"{rope.where}: factor is {factor}, wanted 1 or more")
    context = rope.get("original_max_position_embeddings", int, text.get("max_position_embeddings", int, 32768))
    fast, slow = rope.get("beta_fast", float, 32.0), rope.get("beta_slow", float, 1.0)
    gains = [0.1 * rope.get(key, float, 0.0) * math.log(factor) + 1 for key in ("mscale", "mscale_all_dim")]
    gain = gains[0] / gains[1] if min(gains) > 1 else 0.1 * math.log(factor) + 1
    return YarnConfig(
        factor=factor, context=context, fast=fast, slow=slow,
        whole=rope.get("truncate", bool, True), gain=rope.get("attention_factor", float, gain),
    )  # fmt: skip


def rope_theta(rope: Section, text: Section, default: float) -> float:
    """From beside the other rotary settings (transformers 5), or from before them."""
    return rope.get("rope_theta", float, text.get("rope_theta", float, default))


def _bands(head_dim: int, family: str) -> tuple[int, int, int]:
    time, height, width = (24, 20, 20) if family.startswith("qwen3") else (16, 24, 24)
    return time * head_dim // 128, height * head_dim // 128, width * head_dim // 128


def _moe(text: Section, width: int) -> MoEConfig:
    inner = text.need("moe_intermediate_size", int)
    if width in (inner, 2 * inner):
        raise CheckpointError(
            f"{text.where}: hidden_size is {width} and moe_intermediate_size {inner}, wanted neither the same nor half "
            "of it: files hold experts' weights either way round, which of square ones cannot be told"
        )
    return MoEConfig(
        num_experts=text.get("num_local_experts", int, 0) or text.need("num_experts", int),
        top_k=text.need("num_experts_per_tok", int),
        intermediate_size=inner,
    )


def _dense_layers(text: Section, num_layers: int) -> tuple[int, ...]:
    """Those that are named, and all but every decoder_sparse_step-th."""
    named, step = text.get("mlp_only_layers", tuple[int, ...], ()), text.get("decoder_sparse_step", int, 1)
    return tuple(layer for layer in range(num_layers) if layer in named or (layer + 1) % step)


def _qwen2_vision(vision: Section, family: str) -> VisionConfig:
    """The towers of Qwen2-VL (everything attends to everything) and of Qwen2.5-VL (windows, gated)."""
    first = family == "qwen2_vl"
    width = vision.get("embed_dim", int, 1280) if first else vision.get("hidden_size", int, 1280)
    inner = int(width * vision.get("mlp_ratio", float, 4)) if first else vision.get("intermediate_size", int, 3420)
    depth = vision.get("depth", int, 32)
    whole = tuple(range(depth)) if first else vision.get("fullatt_block_indexes", tuple[int, ...], (7, 15, 23, 31))
    return VisionConfig(
        hidden_size=width,
        num_layers=depth,
        num_heads=vision.get("num_heads", int, 16),
        intermediate_size=inner,
        patch_size=vision.get("patch_size", int, 14),
        temporal_patch_size=vision.get("temporal_patch_size", int, 2),
        merge_size=vision.get("spatial_merge_size", int, 2),
        window_size_px=vision.get("window_size", int, 112),
        full_attention_layers=whole,
        rope_theta=_tower_theta(vision),
        stem_bias=False,
        norm="layer" if first else "rms",
        feedforward=_feedforward(vision, "quick_gelu" if first else "silu"),
        merger_activation="gelu",
    )


def _qwen3_vision(vision: Section) -> VisionConfig:
    """The tower of Qwen3-VL: a learned table of positions, and features of three layers for the decoder's first."""
    depth = vision.get("depth", int, 27)
    deep = vision.get("deepstack_visual_indexes", tuple[int, ...], (8, 16, 24))
    if len(set(deep)) < len(deep) or not set(deep) <= set(range(depth)):
        raise CheckpointError(
            f"{vision.where}: deepstack_visual_indexes is {list(deep)}, wanted different layers of 0 to {depth - 1}"
        )
    return VisionConfig(
        hidden_size=vision.get("hidden_size", int, 1152),
        num_layers=depth,
        num_heads=vision.get("num_heads", int, 16),
        intermediate_size=vision.get("intermediate_size", int, 4304),
        patch_size=vision.get("patch_size", int, 16),
        temporal_patch_size=vision.get("temporal_patch_size", int, 2),
        merge_size=vision.get("spatial_merge_size", int, 2),
        full_attention_layers=tuple(range(depth)),
        rope_theta=_tower_theta(vision),
        position_grid=round(vision.get("num_position_embeddings", int, 2304) ** 0.5),
        position_resampling="bilinear",
        norm="layer",
        feedforward=_feedforward(vision, "gelu_pytorch_tanh"),
        merger_activation="gelu",
        deep_layers=deep,
    )


def _tower_theta(vision: Section) -> float:
    """The base of the tower's rotation."""
    rope = vision.section("rope_parameters")
    if _kind(rope) not in ("default", "axial"):
        raise CheckpointError(f"{rope.where}: rope_type is {_kind(rope)!r}, wanted axial or default")
    return rope_theta(rope, vision, 10_000.0)


def _feedforward(vision: Section, default: str) -> Any:
    name = vision.get("hidden_act", str, default)
    if name not in FEEDFORWARDS:
        raise CheckpointError(f"{vision.where}: hidden_act is {name!r}, wanted one of {', '.join(FEEDFORWARDS)}")
    return FEEDFORWARDS[name]


def _image(images: Section, family: str) -> ImageConfig:
    """Pixels are resampled as published: bicubic in one pass, between the smallest and largest number of pixels."""
    qwen3 = family.startswith("qwen3") and not images  # a file without them has the values of transformers' class
    least, most = _limits(images, *((65536, 16777216) if qwen3 else (3136, 1003520)))
    half = (0.5, 0.5, 0.5)
    return ImageConfig(
        min_pixels=least,
        max_pixels=most,
        mean=images.get("image_mean", tuple[float, float, float], half if qwen3 else CLIP_MEAN),
        std=images.get("image_std", tuple[float, float, float], half if qwen3 else CLIP_STD),
        reducing_gap=None,
    )


def _limits(preprocessor: Section, least: int, most: int) -> tuple[int, int]:
    """The smallest and the largest number of pixels, under whichever names."""
    size = preprocessor.section("size")
    least = size.get("shortest_edge", int, size.get("min_pixels", int, least))
    most = size.get("longest_edge", int, size.get("max_pixels", int, most))
    return preprocessor.get("min_pixels", int, least), preprocessor.get("max_pixels", int, most)


def _video(videos: Section, vision: Section, family: str) -> VideoConfig:
    """Frames as qwen-vl-utils takes them: two a second, each with an even share of the pixels of the whole."""
    qwen3 = family.startswith("qwen3")
    block_px = (vision.get("patch_size", int, 16 if qwen3 else 14) * vision.get("spatial_merge_size", int, 2)) ** 2
    whole = (128 * block_px, 768 * block_px) if videos else (4096, 24576 * block_px)
    least, most = _limits(videos, *(whole if qwen3 else (128 * block_px, 768 * block_px)))
    if qwen3:
        videos.only(cap_pixels_per_frame=False)
    else:
        videos.only(cap_pixels_per_frame=True, max_video_tokens=128_000)
    fps, num_frames = videos.get("fps", float, 2.0), videos.get("num_frames", int, 0)
    if fps <= 0 or (num_frames and videos.values.get("fps", fps) is not None):
        raise CheckpointError(
            f"{videos.where}: fps is {fps} and num_frames {num_frames or None}, wanted fps above 0, or null beside "
            "num_frames"
        )
    return VideoConfig(
        fps=fps,
        num_frames=num_frames or None,
        min_frames=videos.get("min_frames", int, 4),
        max_frames=videos.get("max_frames", int, 768),
        min_pixels=least,
        max_pixels=most,
        whole_patches=not qwen3,
        max_clip_pixels=None if qwen3 else int(128_000 * block_px * 0.9),
        time="text" if qwen3 else "positions" if family == "qwen2_5_vl" else "order",
        positions_per_second=vision.get("tokens_per_second", float, 4),
    )
