"""config.json and preprocessor_config.json of Kimi-VL as a ThinkerConfig: MoonViT and a decoder like DeepSeek-V3's."""

from foveate.errors import ConfigError
from foveate.models.config import DecoderConfig, ImageConfig, LatentConfig, MoEConfig, ThinkerConfig, VisionConfig
from foveate.models.files import Values, needed

ONLY = {
    "q_lora_rank": None, "rope_scaling": None, "attention_bias": False, "n_group": 1, "topk_group": 1,
    "moe_layer_freq": 1, "scoring_func": "sigmoid", "hidden_act": "silu",
}  # fmt: skip
"""Settings of the text model that the released models have, and that are the only ones served."""


def kimi_config(values: Values, preprocessor: Values) -> ThinkerConfig:
    """A whole thinker from the two files. Raises ConfigError naming a key that is missing or asks for the unknown."""
    vision = needed(values, "vision_config")
    return ThinkerConfig(
        vision=_vision(vision),
        decoder=_decoder(needed(values, "text_config")),
        image=_image(preprocessor, vision.get("patch_size", 14)),
        model_type=values["model_type"],
    )


def _decoder(text: Values) -> DecoderConfig:
    for key, value in ONLY.items():
        if text.get(key, value) != value:
            raise ConfigError(f"{key} of text_config is {text[key]!r}; only {value!r} is supported")
    turning, heads = needed(text, "qk_rope_head_dim"), needed(text, "num_attention_heads")
    return DecoderConfig(
        vocab_size=needed(text, "vocab_size"),
        hidden_size=needed(text, "hidden_size"),
        num_layers=needed(text, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=turning,
        intermediate_size=needed(text, "intermediate_size"),
        mrope_section=(turning // 2, 0, 0),
        rope_theta=text.get("rope_theta", 10_000.0),
        norm_eps=text.get("rms_norm_eps", 1e-6),
        tie_embeddings=text.get("tie_word_embeddings", False),
        latent=LatentConfig(
            rank=needed(text, "kv_lora_rank"),
            plain_dim=needed(text, "qk_nope_head_dim"),
            value_dim=needed(text, "v_head_dim"),
        ),
        image_positions="line",
        moe=MoEConfig(
            num_experts=needed(text, "n_routed_experts"),
            top_k=needed(text, "num_experts_per_tok"),
            intermediate_size=needed(text, "moe_intermediate_size"),
            num_shared_experts=text.get("n_shared_experts") or 0,
            scoring="sigmoid",
            norm_top_k=text.get("norm_topk_prob", True),
            routed_scale=text.get("routed_scaling_factor", 1.0),
        ),
        num_dense_layers=text.get("first_k_dense_replace", 0),
    )


def _vision(vision: Values) -> VisionConfig:
    depth, side = vision.get("num_hidden_layers", 27), vision.get("init_pos_emb_height", 64)
    merge = vision.get("merge_kernel_size", (2, 2))
    if side != vision.get("init_pos_emb_width", 64) or merge[0] != merge[1]:
        raise ConfigError("vision_config has a table of positions, or blocks to merge, that are not square")
    return VisionConfig(
        hidden_size=vision.get("hidden_size", 1152),
        num_layers=depth,
        num_heads=vision.get("num_attention_heads", 16),
        intermediate_size=vision.get("intermediate_size", 4304),
        patch_size=vision.get("patch_size", 14),
        merge_size=merge[0],
        full_attention_layers=tuple(range(depth)),
        norm="layer",
        norm_eps=1e-5,
        feedforward="gelu_tanh",
        merger_activation="gelu",
        final_norm=True,
        position_grid=side,
    )


def _image(preprocessor: Values, patch_size: int) -> ImageConfig:
    """At most in_token_limit patches; what is smaller stays as it is and is padded to whole blocks."""
    return ImageConfig(
        min_pixels=0,
        max_pixels=preprocessor.get("in_token_limit", 4096) * patch_size**2,
        mean=tuple(preprocessor.get("image_mean", (0.5, 0.5, 0.5))),
        std=tuple(preprocessor.get("image_std", (0.5, 0.5, 0.5))),
        fit="pad",
        reducing_gap=None,
    )
