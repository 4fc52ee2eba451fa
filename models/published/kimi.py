"""config.json and preprocessor_config.json of Kimi-VL as a ThinkerConfig: MoonViT and a decoder like DeepSeek-V3's."""

from foveate.errors import CheckpointError
from foveate.models.config import DecoderConfig, ImageConfig, LatentConfig, MoEConfig, ThinkerConfig, VisionConfig
from foveate.models.files import Section
from foveate.models.published.qwen import CLIP_MEAN, CLIP_STD, check_pixels, rope_theta

ONLY = {
    "q_lora_rank": None, "rope_scaling": None, "rope_interleave": True, "attention_bias": False,
    "topk_method": "noaux_tc", "moe_layer_freq": 1, "scoring_func": "sigmoid", "hidden_act": "silu",
}  # fmt: skip
"""Settings of the text model that the released models have, and that are the only ones served."""


def kimi_config(config: Section, images: Section) -> ThinkerConfig:
    """A whole thinker from the two files. Raises as `qwen_config` does."""
    vision = _vision(config.section("vision_config"))
    check_pixels(images, vision)
    if images:
        images.need("pad_input", bool)
    images.only(pad_input=True, merge_kernel_size=[vision.merge_size] * 2)
    return ThinkerConfig(
        vision=vision,
        decoder=_decoder(config.section("text_config")),
        image=_image(images, vision.patch_size),
        model_type=config.need("model_type", str),
    )


def _decoder(text: Section) -> DecoderConfig:
    text.only(**ONLY)
    plain, value = text.need("qk_nope_head_dim", int), text.need("v_head_dim", int)
    rope = text.section("rope_parameters")
    rope.only(rope_type="default")
    turning, heads = text.need("qk_rope_head_dim", int), text.need("num_attention_heads", int)
    if value > plain + turning:
        raise CheckpointError(
            f"{text.where}: v_head_dim is {value}, wanted at most {plain + turning}, which is qk_nope_head_dim + "
            "qk_rope_head_dim"
        )
    return DecoderConfig(
        vocab_size=text.need("vocab_size", int),
        hidden_size=text.need("hidden_size", int),
        num_layers=text.need("num_hidden_layers", int),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=turning,
        intermediate_size=text.need("intermediate_size", int),
        mrope_section=(turning // 2, 0, 0),
        rope_theta=rope_theta(rope, text, 10_000.0),
        norm_eps=text.get("rms_norm_eps", float, 1e-6),
        tie_embeddings=text.get("tie_word_embeddings", bool, False),
        latent=LatentConfig(
            rank=text.need("kv_lora_rank", int),
            plain_dim=plain,
            value_dim=value,
        ),
        image_positions="line",
        moe=MoEConfig(
            num_experts=text.need("n_routed_experts", int),
            top_k=text.need("num_experts_per_tok", int),
            intermediate_size=text.need("moe_intermediate_size", int),
            num_shared_experts=text.get("n_shared_experts", int, 0, least=0),
            scoring="sigmoid",
            norm_top_k=text.get("norm_topk_prob", bool, True),
            routed_scale=text.need("routed_scaling_factor", float),
            num_groups=text.need("n_group", int),
            top_groups=text.need("topk_group", int),
        ),
        num_dense_layers=text.get("first_k_dense_replace", int, 0, least=0),
    )


def _vision(vision: Section) -> VisionConfig:
    depth, side = vision.get("num_hidden_layers", int, 27), vision.get("init_pos_emb_height", int, 64)
    merge = vision.get("merge_kernel_size", tuple[int, int], (2, 2))
    if side != vision.get("init_pos_emb_width", int, 64) or merge[0] != merge[1]:
        raise CheckpointError(
            f"{vision.where}: init_pos_emb_height and _width, and the two of merge_kernel_size, differ; wanted the same"
        )
    return VisionConfig(
        hidden_size=vision.get("hidden_size", int, 1152),
        num_layers=depth,
        num_heads=vision.get("num_attention_heads", int, 16),
        intermediate_size=vision.get("intermediate_size", int, 4304),
        patch_size=vision.get("patch_size", int, 14),
        merge_size=merge[0],
        full_attention_layers=tuple(range(depth)),
        norm="layer",
        norm_eps=1e-5,
        feedforward="gelu_tanh",
        merger_activation="gelu",
        final_norm=True,
        position_grid=side,
    )


def _image(images: Section, patch_size: int) -> ImageConfig:
    """At most in_token_limit patches; what is smaller stays as it is and is padded to whole blocks."""
    half = (0.5, 0.5, 0.5)
    mean, std = (CLIP_MEAN, CLIP_STD) if images else (half, half)  # a file without them has the values of its class
    return ImageConfig(
        min_pixels=0,
        max_pixels=images.get("in_token_limit", int, 4096) * patch_size**2,
        mean=images.get("image_mean", tuple[float, float, float], mean),
        std=images.get("image_std", tuple[float, float, float], std),
        fit="pad",
        reducing_gap=None,
    )
