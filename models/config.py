"""Sizes and switches of a thinker, as frozen dataclasses; nano is one preset among others.

One vision tower and one decoder serve every family: a switch here selects the variant, never a second class. Names
follow the published configurations (Qwen2.5-VL, Kimi-VL), so that a reader of those recognises each field.
"""

from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from foveate.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The tower: native-resolution patches in, one vector for every merged block of patches out."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    patch_size: int = 14
    temporal_patch_size: int = 1
    """Frames in a patch; a still image is repeated this often (2 in the Qwen families)."""
    merge_size: int = 2
    """A block of merge_size x merge_size patches becomes one token of the decoder."""
    window_size_px: int = 112
    full_attention_layers: tuple[int, ...] = ()
    """Layers that attend over the whole image; all others stay inside a window."""
    stem: Literal["linear", "conv"] = "linear"
    """How the pixels of one patch become a vector: one matrix, or a convolutional network over the whole picture."""
    stem_bias: bool = True
    """Whether the one matrix has a bias."""
    stem_channels: tuple[int, ...] = (24, 48, 96)
    """Channels of the convolutional stem's layers of stride 2; patch_size must be a multiple of 2 for each."""
    stem_mixes: int = 1
    """Convolutions of stride 1 that follow them."""
    norm: Literal["rms", "layer"] = "rms"
    feedforward: Literal["swiglu", "gelu", "gelu_tanh", "quick_gelu"] = "swiglu"
    """Of the tower's layers: gated, or one of the activations of feedforward.py."""
    merger_activation: Literal["gelu", "gelu_tanh"] = "gelu_tanh"
    final_norm: bool = False
    """A norm after the last layer, before the projector's own (MoonViT)."""
    deep_layers: tuple[int, ...] = ()
    """Layers after which the features are also merged, each by the merger at its place here, to be added behind the
    decoder's first layers, the lowest first (DeepStack, Meng et al., arXiv 2406.04334; Qwen3-VL)."""
    position_grid: int = 0
    """Side of a learned table of positions, resampled to the image's grid (MoonViT's 64); 0 for none."""
    position_resampling: Literal["bicubic", "bilinear"] = "bicubic"
    """Bicubic between the middles of cells (MoonViT), or bilinear between their corners (Qwen3-VL)."""
    output_position_grid: int = 0
    """Side of a learned table of positions that is added to the merged tokens, so that the decoder knows where in the
    picture each one stands; 0 for none."""
    output_norm: bool = False
    """RMSNorm on the projector's output, so that image tokens enter the decoder at the scale of its embeddings."""
    spelled_places: int = 0
    """Characters of a merged token that the projector also says in the decoder's embeddings; 0 for none."""
    spelled_tokens: tuple[int, int] = (0, 0)
    """First and end of the ids of those characters in the decoder's vocabulary."""
    named_places: int = 0
    """Words for what a merged token shows, said in the same way; 0 for none."""
    named_tokens: tuple[int, int] = (0, 0)
    """First and end of the ids of those words."""
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        step = 2 ** len(self.stem_channels)
        if self.stem == "conv" and self.patch_size % step:
            raise ConfigError(
                f"patch_size {self.patch_size} with {len(self.stem_channels)} stem_channels, "
                f"wanted a multiple of {step}"
            )
        block_px, whole = self.patch_size * self.merge_size, set(self.full_attention_layers)
        if not set(range(self.num_layers)) <= whole and self.window_size_px < block_px:
            raise ConfigError(f"window_size_px {self.window_size_px} with blocks of {block_px} px, wanted one at least")

    @property
    def patch_dim(self) -> int:
        """Numbers in a flattened patch."""
        return 3 * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Mixture of experts of a decoder layer."""

    num_experts: int
    top_k: int
    intermediate_size: int
    num_shared_experts: int = 0
    """Experts that see every token, fused into one SwiGLU of num_shared_experts x intermediate_size."""
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    """Softmax over all experts (Qwen, Mixtral), or sigmoids with a correction bias (DeepSeek-V3, Kimi-VL)."""
    norm_top_k: bool = True
    """Whether the weights of the chosen experts are scaled to sum to one."""
    routed_scale: float = 1.0
    num_groups: int = 1
    """Groups of neighbouring experts, of which each token first chooses some (DeepSeek-V3, arXiv 2412.19437)."""
    top_groups: int = 1
    """How many of them."""
    balance_coef: float = 0.01
    """Weight of the load-balancing loss in training."""

    def __post_init__(self) -> None:
        if self.num_experts % self.num_groups or not 1 <= self.top_groups <= self.num_groups:
            raise ConfigError(
                f"{self.num_experts} experts are in {self.num_groups} groups of which {self.top_groups} are chosen; "
                "wanted groups of one size, and no more chosen than there are"
            )
        most = self.num_experts // self.num_groups * self.top_groups
        if not 1 <= self.top_k <= most:
            raise ConfigError(
                f"each token has {self.top_k} experts, wanted 1 to {most}: those of the groups it chooses"
            )


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Keys and values out of one vector a token (multi-head latent attention); head_dim is what turns."""

    rank: int
    """Numbers of the vector."""
    plain_dim: int
    """Numbers of a head's queries and keys that do not turn."""
    value_dim: int
    """Numbers of a head's values."""


@dataclass(frozen=True, kw_only=True)
class YarnConfig:
    """Positions for a context longer than training's (YaRN, Peng et al., arXiv 2309.00071).

    Pairs that turn more often than `fast` over training's context stay as they are, those that turn less often than
    `slow` do so `factor` times more slowly, and from one to the other it changes in a straight line.
    """

    factor: float
    context: int
    """Tokens of training."""
    fast: float = 32.0
    slow: float = 1.0
    whole: bool = True
    """Whether the line ends at whole pairs."""
    gain: float = 1.0
    """Of cosines and sines."""


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The language model."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    """Width of the dense SwiGLU layers."""
    mrope_section: tuple[int, int, int] = (8, 12, 12)
    """Pairs of a head that turn with time, height and width; they sum to head_dim / 2."""
    mrope_interleaved: bool = False
    """Whether the three take turns over the frequencies (Qwen3-VL) instead of a band each (Qwen2-VL)."""
    rope_theta: float = 10_000.0
    rope_yarn: YarnConfig | None = None
    rope_share: float = 1.0
    """Share of a head's pairs, the fastest, that turn; the others tell what something is wherever it stands (p-RoPE,
    Barbero et al., arXiv 2410.06205)."""
    norm_eps: float = 1e-6
    qkv_bias: bool = False
    out_bias: bool = False
    """Whether what leaves attention has a bias."""
    qk_norm: bool = False
    qk_norm_gain: float = 1.0
    """What the weights of the norms on queries and keys start from; at 1 no score exceeds the root of head_dim."""
    tie_embeddings: bool = True
    embed_scale: float = 1.0
    """Embeddings enter the first layer times this (Gemma: the square root of the width)."""
    latent: LatentConfig | None = None
    image_positions: Literal["grid", "line"] = "grid"
    """Whether an image's tokens have rows and columns for positions, or stand one after another like text (Kimi-VL)."""
    moe: MoEConfig | None = None
    num_dense_layers: int = 0
    """How many of the first layers keep a dense feed-forward when moe is set."""
    dense_layers: tuple[int, ...] = ()
    """Which of the others keep one, too."""

    def __post_init__(self) -> None:
        if sum(self.mrope_section) * 2 != self.head_dim:
            raise ConfigError(
                f"mrope_section {self.mrope_section} sums to {sum(self.mrope_section)}, "
                f"wanted head_dim / 2 = {self.head_dim // 2}"
            )
        time, height, width = self.mrope_section
        if self.mrope_interleaved and not height == width <= time:
            raise ConfigError(
                f"mrope_section {self.mrope_section} cannot be interleaved: height and width must have as many pairs "
                "as each other, and time no fewer"
            )


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The pixel budget of one image."""

    min_pixels: int = 56 * 56
    max_pixels: int = 14 * 14 * 4 * 1280
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    fit: Literal["round", "pad"] = "round"
    """Sides become whole merged blocks by rounding (Qwen2-VL), or the picture is never enlarged and padded with black
    at the right and below (Kimi-VL)."""
    reducing_gap: float | None = 2.0
    """Large pictures are first reduced by a whole factor, to at least this times their size; None for one pass."""


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """How videos are seen."""

    fps: float = 2.0
    """Frames kept of a second."""
    min_frames: int = 4
    max_frames: int = 768
    num_frames: int | None = None
    """Frames kept of a file however long it is, in place of fps."""
    whole_patches: bool = True
    """Whether the frames kept are rounded to whole patches in time (down, where fps says how many)."""
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    """Of a frame, or of all frames together."""
    asked_pixels: int = 0
    """Of a frame at most, as a part of a conversation asks; 0 where it does not."""
    max_clip_pixels: int | None = None
    """Of all frames together, shared evenly, where max_pixels is of one frame; None where it is of all."""
    time: Literal["order", "positions", "text"] = "order"
    """How time is told: patches in time are counted (Qwen2-VL), have positions by the second (Qwen2.5-VL), or are
    images of their own with their time in words before each (Qwen3-VL)."""
    positions_per_second: float = 2.0


@dataclass(frozen=True, kw_only=True)
class ThinkerConfig:
    """A whole thinker."""

    vision: VisionConfig
    decoder: DecoderConfig
    image: ImageConfig = field(default_factory=ImageConfig)
    video: VideoConfig | None = None
    """None for a family that sees no videos."""
    max_turn_tokens: int = 0
    """Longest turn that an agent samples: a small model that repeats itself ends here and not with the budget. 0 for as
    long as the budget allows: thoughts of published models are long."""
    top_k: int = 0
    """Likeliest tokens that one is drawn from; 0 for all. At temperature 0 the likeliest is taken."""
    top_p: float = 1.0
    """The likeliest tokens that together have this probability are drawn from, after top_k."""
    repetition_penalty: float = 1.0
    """What the logits of tokens that a conversation holds already are divided by (multiplied with, below zero) before
    one is chosen; 1 for none."""
    context_tokens: int = 0
    """Longest conversation, its next turn included; 0 where that is not known."""
    model_type: str = "foveate"

    def to_json(self) -> dict[str, Any]:
        """Plain values, as written to config.json."""
        return asdict(self)


_PLAIN_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def from_json(cls: type[T], values: dict[str, Any], path: str = "") -> T:
    """Build a (nested) configuration dataclass from plain values.

    Raises ConfigError naming the key when one is unknown or missing, or a value is of the wrong type.
    """
    hints = get_type_hints(cls)
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key {path + key!r}; known keys are {', '.join(sorted(known))}")
    for f in fields(cls):  # type: ignore[arg-type]
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"the key {path + f.name!r} is missing; it has no value of its own")
    return cls(**{key: typed(hints[key], value, f"{path}{key}.") for key, value in values.items()})


def typed(hint: Any, value: Any, path: str) -> Any:
    """A value of a file as `hint` says. Raises ConfigError naming the key, which is `path`, when it is not that."""
    origin, parts, wrong = get_origin(hint), get_args(hint), f"{path.removesuffix('.')} is {value!r}, wanted"
    if origin in (Union, UnionType):
        return None if value is None and NoneType in parts else typed(parts[0], value, path)
    if origin is Literal and value not in parts:
        raise ConfigError(f"{wrong} one of {', '.join(map(str, parts))}")
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{wrong} a mapping of keys to values")
        return from_json(hint, value, path)  # type: ignore[arg-type]
    if origin is tuple:
        kinds = parts[:1] * len(value) if Ellipsis in parts and isinstance(value, list | tuple) else parts
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise ConfigError(f"{wrong} a list" + ("" if Ellipsis in parts else f" of {len(parts)}"))
        return tuple(typed(kind, item, path) for kind, item in zip(kinds, value, strict=True))
    if hint in _PLAIN_TYPES and type(value) not in ((int, float) if hint is float else (hint,)):
        raise ConfigError(f"{wrong} {_PLAIN_TYPES[hint]}")
    return value


NANO = ThinkerConfig(
    vision=VisionConfig(
        hidden_size=192,
        num_layers=4,
        num_heads=3,
        intermediate_size=384,
        patch_size=16,
        window_size_px=128,
        full_attention_layers=(2,),
        stem="conv",
        stem_mixes=3,
        output_position_grid=32,
        output_norm=True,
        spelled_places=6,
        spelled_tokens=(14, 108),
        named_places=2,
        named_tokens=(281, 396),
    ),
    decoder=DecoderConfig(
        vocab_size=1024,
        hidden_size=256,
        num_layers=7,
        num_heads=8,
        num_kv_heads=4,
        head_dim=64,
        mrope_section=(12, 10, 10),
        mrope_interleaved=True,
        rope_share=0.5,
        embed_scale=16.0,
        intermediate_size=512,
        qk_norm=True,
        qk_norm_gain=1.6,
        moe=MoEConfig(num_experts=8, top_k=2, intermediate_size=128, num_shared_experts=2),
        num_dense_layers=1,
    ),
    image=ImageConfig(min_pixels=64 * 32 * 32, max_pixels=196 * 32 * 32),
    max_turn_tokens=320,
)

TINY = ThinkerConfig(
    vision=VisionConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        patch_size=16,
        window_size_px=128,
        full_attention_layers=(1,),
        position_grid=8,
        spelled_places=2,
        spelled_tokens=(14, 108),
        named_places=1,
        named_tokens=(281, 396),
    ),
    decoder=DecoderConfig(
        vocab_size=1024,
        hidden_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mrope_section=(2, 3, 3),
        intermediate_size=96,
        moe=MoEConfig(num_experts=4, top_k=2, intermediate_size=32, num_shared_experts=1),
        num_dense_layers=1,
    ),
    image=ImageConfig(min_pixels=4 * 32 * 32, max_pixels=64 * 32 * 32),
)

PRESETS = {"nano": NANO, "tiny": TINY}


def preset(name: str) -> ThinkerConfig:
    """A thinker of ours by name. Raises ConfigError for one that is not there."""
    if name not in PRESETS:
        raise ConfigError(f"the preset is {name!r}, wanted one of {', '.join(PRESETS)}")
    return PRESETS[name]
