"""What the JSON files of a published folder say is served as transformers does, or refused in one line.

Proved: where tied embeddings are said; positions of a longer context; biases, dense layers and windows of decoders;
flags of preprocessors; a value of another type, or of a kind that is not served, is named with its file and key,
whatever the file; so is every part of weights that are joined.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import kimi
import pytest
import qwen
import torch
import transformers
from pictures import image, noise, text
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foveate.errors import CheckpointError, InputError
from foveate.models import Thinker
from foveate.models.files import Section
from foveate.models.published.qwen import qwen_config

pytestmark = pytest.mark.usefixtures("quiet")

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": [image(150, 90, 1), text("What is in the image?")]}]


@pytest.fixture(scope="module")
def saved_kimi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kimi")
    kimi.save(folder)
    return folder


@pytest.fixture(scope="module")
def saved_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen2_5_vl")
    qwen.save("qwen2_5_vl", folder)
    return folder


def edited(folder: Path, tmp_path: Path, file: str = "config.json", within: str = "", **values: Any) -> Path:
    """A copy of a folder with other values in one of its files; a value that is ... is taken out."""
    copy = tmp_path / "edited"
    if copy != folder:
        shutil.copytree(folder, copy)
    path = copy / file
    whole = json.loads(path.read_text()) if path.is_file() else {}
    part = whole[within] if within else whole
    part |= values
    for key in [key for key, value in values.items() if value is ...]:
        del part[key]
    path.write_text(json.dumps(whole))
    return copy


@torch.no_grad()
def assert_logits_agree(family: str, folder: Path) -> None:
    """Those of transformers, which reads the same folder."""
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    thinker = Thinker.from_pretrained(folder)
    wanted: Tensor = theirs(**qwen.inputs(family, MESSAGES, generate=False)).logits[0]
    torch.testing.assert_close(thinker(thinker.processor(MESSAGES)), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("outside", "inside"), [(..., True), (False, True), (True, False), (..., ...)])
def test_tied_embeddings_are_said_where_transformers_reads_it(
    family: str, saved: tuple[nn.Module, Path], tmp_path: Path, outside: Any, inside: Any
) -> None:
    inner = {} if inside is ... else {"tie_word_embeddings": inside}
    folder = edited(saved[1], tmp_path, within="text_config", **inner)
    edited(folder, tmp_path, tie_word_embeddings=outside)
    tied = transformers.AutoConfig.from_pretrained(folder).tie_word_embeddings
    if not tied:
        thinker = Thinker.from_pretrained(folder)
        assert thinker.decoder.head.weight is not thinker.decoder.embed.weight
        assert_logits_agree(family, folder)
        return
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs .* set tie_word_embeddings to false"):
        Thinker.from_pretrained(folder)  # transformers warns and does not tie them
    tensors = load_file(folder / "model.safetensors")
    embeddings = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    save_file(tensors | {"lm_head.weight": tensors[embeddings].clone()}, folder / "model.safetensors", {"format": "pt"})
    assert Thinker.from_pretrained(folder).decoder.config.tie_embeddings
    assert_logits_agree(family, folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"factor": 4.0, "original_max_position_embeddings": 64},
        {"factor": 2, "original_max_position_embeddings": 64, "beta_fast": 8, "beta_slow": 2, "truncate": False},
        {"factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 0.7},
        {"factor": 8.0, "original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 0.5},
        {"factor": 1.0, "original_max_position_embeddings": 64},
        {"factor": 4.0},
    ],
)
def test_a_longer_context(
    family: str, saved: tuple[nn.Module, Path], tmp_path: Path, settings: dict[str, float]
) -> None:
    """The positions of YaRN, as in the model card of Qwen2.5-VL; a picture turns with rows and columns, too."""
    rope = json.loads((saved[1] / "config.json").read_text())["text_config"]["rope_parameters"]
    folder = edited(saved[1], tmp_path, within="text_config", rope_parameters=rope | {"rope_type": "yarn"} | settings)
    assert_logits_agree(family, folder)
    context = settings.get("original_max_position_embeddings", 4096)
    assert Thinker.from_pretrained(folder).config.context_tokens == max(4096, context * settings["factor"])


def test_the_older_key_of_rotary_settings_goes_first(saved_qwen: Path, tmp_path: Path) -> None:
    """A folder that transformers saved and then somebody edited as the model card says; transformers takes theirs."""
    scaling = {"type": "yarn", "factor": 4.0, "mrope_section": [2, 3, 3], "original_max_position_embeddings": 64}
    folder = edited(saved_qwen, tmp_path, within="text_config", rope_scaling=scaling)
    assert "rope_parameters" in json.loads((folder / "config.json").read_text())["text_config"]
    assert Thinker.from_pretrained(folder).config.decoder.rope_yarn is not None
    assert_logits_agree("qwen2_5_vl", folder)


def misshapen(tensors: dict[str, Tensor], **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    layer = (
        "model.layers.1." if "model.layers.1.input_layernorm.weight" in tensors else "model.language_model.layers.1."
    )
    named = {layer + name.replace("__", ".") + ".weight": shape for name, shape in shapes.items()}
    assert set(named) <= set(tensors)
    return tensors | {name: torch.zeros(shape) for name, shape in named.items()}


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"mlp__gate_proj": (100, 64), "mlp__up_proj": (92, 64)}, r"gate_proj.weight has shape \[100, 64\], wanted"),
        ({"self_attn__k_proj": (48, 64), "self_attn__v_proj": (16, 64)}, r"k_proj.weight has shape \[48, 64\], wanted"),
        ({"self_attn__k_proj": ()}, r"k_proj.weight has shape \[\], wanted \[32, 64\]"),
        ({"mlp__down_proj": (96, 64)}, r"down_proj.weight has shape \[96, 64\], wanted \[64, 96\]"),
        ({"input_layernorm": ()}, r"input_layernorm.weight has shape \[\], wanted \[64\]"),
        ({"input_layernorm": (8, 8)}, r"input_layernorm.weight has shape \[8, 8\], wanted \[64\]"),
    ],
)  # fmt: skip
def test_each_part_of_a_weight_is_measured(
    saved_qwen: Path, tmp_path: Path, shapes: dict[str, tuple[int, ...]], said: str
) -> None:
    folder = edited(saved_qwen, tmp_path)
    save_file(misshapen(load_file(folder / "model.safetensors"), **shapes), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*layers\.1\..*{said}"):
        Thinker.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e4m3fn])
def test_weights_are_floating(saved_qwen: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    folder = edited(saved_qwen, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    save_file(tensors | {name: tensors[name].to(dtype)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {name} has dtype {str(dtype)[6:]}, wanted one of"):
        Thinker.from_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "within", "values", "said"),
    [
        ("config.json", "", {"text_config": 7}, "text_config is 7, wanted an object"),
        ("config.json", "", {"vision_config": [1]}, r"vision_config is \[1\], wanted an object"),
        ("config.json", "", {"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', wanted true or false"),
        ("config.json", "", {"quantization_config": {"quant_method": "awq"}}, "quantization_config asks for awq, want"),
        ("config.json", "text_config", {"quantization_config": {"bits": 4}}, "asks for packed weights, wanted weights"),
        ("config.json", "text_config", {"hidden_size": "64"}, "text_config: hidden_size is '64', wanted a whole"),
        ("config.json", "text_config", {"hidden_size": None}, "text_config lacks the key hidden_size"),
        ("config.json", "text_config", {"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5, wanted a whole number"),
        ("config.json", "text_config", {"num_hidden_layers": -1}, "num_hidden_layers is -1, wanted 1 or more"),
        ("config.json", "text_config", {"num_attention_heads": 0}, "num_attention_heads is 0, wanted 1 or more"),
        ("config.json", "text_config", {"rope_parameters": [1]}, r"rope_parameters is \[1\], wanted an object"),
        (
            "config.json", "text_config", {"rope_parameters": {"mrope_section": [1, 2]}},
            r"rope_parameters: mrope_section is \[1, 2\], wanted a list of 3",
        ),
        ("config.json", "text_config", {"rope_parameters": {"rope_type": "linear"}}, "rope_type is 'linear', wanted"),
        ("config.json", "text_config", {"rope_parameters": {"type": "yarn"}}, "rope_parameters lacks the key factor"),
        (
            "config.json", "text_config", {"rope_parameters": {"rope_type": "yarn", "factor": 0.5}},
            "rope_parameters: factor is 0.5, wanted 1 or more",
        ),
        ("config.json", "text_config", {"hidden_act": "relu"}, "text_config: hidden_act is 'relu'; only 'silu'"),
        (
            "config.json", "text_config",
            {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2, "layer_types": None},
            "use_sliding_window is true and max_window_layers is 2, wanted 3 or more",
        ),
        ("config.json", "text_config", {"layer_types": ["sliding_attention"] * 3}, "layer_types has others"),
        ("config.json", "vision_config", {"depth": "3"}, "vision_config: depth is '3', wanted a whole number"),
        ("config.json", "vision_config", {"hidden_act": "relu"}, "vision_config: hidden_act is 'relu', wanted one of"),
        ("preprocessor_config.json", "", {"size": 4}, "size is 4, wanted an object"),
        ("preprocessor_config.json", "", {"size": {"shortest_edge": "a"}}, "size: shortest_edge is 'a', wanted a"),
        ("preprocessor_config.json", "", {"image_mean": 0.5}, "image_mean is 0.5, wanted a list of 3"),
        ("preprocessor_config.json", "", {"do_resize": False}, "do_resize is False; only True is supported"),
        ("preprocessor_config.json", "", {"do_rescale": False}, "do_rescale is False; only True is supported"),
        ("preprocessor_config.json", "", {"do_normalize": False}, "do_normalize is False; only True is supported"),
        ("preprocessor_config.json", "", {"rescale_factor": 0.01}, "rescale_factor is 0.01; only"),
        ("preprocessor_config.json", "", {"resample": 2}, "resample is 2; only 3 is supported"),
        ("preprocessor_config.json", "", {"merge_size": 1}, "merge_size is 1; only 2 is supported"),
        ("preprocessor_config.json", "", {"patch_size": 16}, "patch_size is 16; only 14 is supported"),
        ("video_preprocessor_config.json", "", {"do_rescale": False}, "do_rescale is False; only True is supported"),
        ("video_preprocessor_config.json", "", {"image_mean": [0, 0, 0]}, "image_mean is"),
        ("video_preprocessor_config.json", "", {"fps": "2"}, "fps is '2', wanted a number"),
        ("video_preprocessor_config.json", "", {"fps": 0.0}, r"fps is 0\.0 and num_frames None, wanted fps above 0"),
        ("video_preprocessor_config.json", "", {"num_frames": 8, "fps": 1}, "fps is 1 and num_frames 8, wanted"),
        ("video_preprocessor_config.json", "", {"max_video_tokens": 9}, "max_video_tokens is 9; only 128000 is"),
        ("video_preprocessor_config.json", "", {"cap_pixels_per_frame": False}, "cap_pixels_per_frame is False; only"),
        ("config.json", "vision_config", {"rope_parameters": {"rope_type": "yarn"}}, "is 'yarn', wanted axial or"),
        ("generation_config.json", "", {"top_p": "a"}, "top_p is 'a', wanted a number"),
        ("generation_config.json", "", {"top_p": -1.0}, r"top_p is -1\.0, wanted more than 0 and at most 1"),
        ("generation_config.json", "", {"top_p": 0.0}, r"top_p is 0\.0, wanted more than 0 and at most 1"),
        ("generation_config.json", "", {"top_p": 1.5}, r"top_p is 1\.5, wanted more than 0 and at most 1"),
        ("generation_config.json", "", {"top_k": 0.5}, "top_k is 0.5, wanted a whole number"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(
    saved_qwen: Path, tmp_path: Path, file: str, within: str, values: dict[str, Any], said: str
) -> None:
    folder = edited(saved_qwen, tmp_path, file, within, **values)
    with pytest.raises(CheckpointError, match=rf"/{file.replace('.', '[.]')}: ?.*{said}") as caught:
        Thinker.from_pretrained(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("config.json", {"image_token_id": [5]}, r"image_token_id is \[5\], wanted a whole number"),
        ("config.json", {"video_token_id": -5}, "video_token_id is -5, wanted 0 or more"),
        ("generation_config.json", {"eos_token_id": -1}, "eos_token_id is -1, wanted the id of a token"),
    ],
)
def test_what_is_no_id_is_named(saved_qwen: Path, tmp_path: Path, file: str, values: dict[str, Any], said: str) -> None:
    folder = edited(saved_qwen, tmp_path, file, **values)
    with pytest.raises(CheckpointError, match=rf"^{folder}: {file}: {said}"):
        Thinker.from_pretrained(folder)


@pytest.mark.parametrize(
    "file", ["chat_template.jinja", "config.json", "generation_config.json", "tokenizer_config.json"]
)
def test_a_file_that_is_not_utf8_is_named(saved_qwen: Path, tmp_path: Path, file: str) -> None:
    folder = edited(saved_qwen, tmp_path)
    if file == "tokenizer_config.json":
        (folder / "chat_template.jinja").unlink()
    (folder / file).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=file):
        Thinker.from_pretrained(folder)


@pytest.mark.parametrize("inner", [32, 64])
def test_experts_that_may_stand_either_way_round_are_refused(inner: int) -> None:
    text_config = qwen.text_settings("qwen3_vl_moe") | {"moe_intermediate_size": inner}
    values = {"model_type": "qwen3_vl_moe", "text_config": text_config}
    with pytest.raises(CheckpointError, match=f"text_config: hidden_size is 64 and moe_intermediate_size {inner}, "):
        qwen_config(Section(values=values), Section(), Section())


def test_buffers_of_older_files_are_passed_over(saved_kimi: Path, tmp_path: Path) -> None:
    folder = edited(saved_kimi, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    save_file(tensors | {name: torch.ones(4)}, folder / "model.safetensors")
    wanted = Thinker.from_pretrained(saved_kimi)
    got = Thinker.from_pretrained(folder)
    assert torch.equal(got(got.processor(MESSAGES)), wanted(wanted.processor(MESSAGES)))


def test_a_folder_that_was_named_from_elsewhere_is_found_again(
    saved_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edited(saved_qwen, tmp_path)
    monkeypatch.chdir(folder.parent)
    thinker = Thinker.from_pretrained(folder.name)
    monkeypatch.chdir("/")
    thinker.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {path.name for path in folder.iterdir()}
    folder.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"edited holds no config\.json any more, .* put the folder back"):
        thinker.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("size_px", [(150, 90), (640, 480)])
def test_tokens_of_a_picture_are_counted_with_those_around_it(
    thinker: Thinker, saved_qwen: Path, saved_kimi: Path, size_px: tuple[int, int]
) -> None:
    for each in (thinker, Thinker.from_pretrained(saved_qwen), Thinker.from_pretrained(saved_kimi)):
        words, picture = text("look"), {"type": "image", "image": noise(*size_px)}
        alone, shown = (len(each.processor([{"role": "user", "content": c}])) for c in ([words], [words, picture]))
        assert each.processor.image_tokens(*size_px) == shown - alone


def test_windows_that_no_layer_has(saved_qwen: Path, tmp_path: Path) -> None:
    values = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 3, "layer_types": None}
    assert_logits_agree("qwen2_5_vl", edited(saved_qwen, tmp_path, within="text_config", **values))


@pytest.mark.parametrize(
    ("family", "text_settings", "vision_settings"),
    [
        ("qwen3_vl", {"attention_bias": True}, {}),
        ("qwen3_vl_moe", {"attention_bias": True}, {}),
        ("qwen3_vl_moe", {"mlp_only_layers": [1]}, {}),
        ("qwen3_vl_moe", {"decoder_sparse_step": 2}, {}),
        ("qwen3_vl_moe", {"decoder_sparse_step": 2, "mlp_only_layers": [1]}, {}),
        ("qwen3_vl", {}, {"deepstack_visual_indexes": [2, 0]}),
        ("qwen3_vl", {"num_hidden_layers": 1}, {}),
        ("qwen2_vl", {}, {"rope_parameters": {"rope_type": "axial", "rope_theta": 500.0}}),
        ("qwen2_5_vl", {}, {"rope_parameters": {"rope_type": "axial", "rope_theta": 500.0}}),
        ("qwen3_vl", {}, {"rope_parameters": {"rope_type": "axial", "rope_theta": 500.0}}),
    ],
)  # fmt: skip
def test_settings_that_few_checkpoints_have(
    family: str, text_settings: dict[str, Any], vision_settings: dict[str, Any], tmp_path: Path
) -> None:
    qwen.save(family, tmp_path, text=text_settings, vision=vision_settings)
    assert_logits_agree(family, tmp_path)
    thinker = Thinker.from_pretrained(tmp_path)
    before = thinker(thinker.processor(MESSAGES))
    thinker.save_pretrained(tmp_path)
    again = Thinker.from_pretrained(tmp_path)
    assert torch.equal(again(again.processor(MESSAGES)), before)


def test_a_control_token_without_its_text_is_named(saved_qwen: Path, tmp_path: Path) -> None:
    folder = edited(saved_qwen, tmp_path, "tokenizer_config.json", bos_token={"lstrip": False})
    with pytest.raises(CheckpointError, match=r"bos_token is .*, wanted a text, or an object with its content"):
        Thinker.from_pretrained(folder)


@pytest.mark.parametrize("layers", [[0, 0], [0, 9], [-1]])
def test_layers_that_a_tower_lacks_are_named(layers: list[int], tmp_path: Path) -> None:
    qwen.save("qwen3_vl", tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["vision_config"]["deepstack_visual_indexes"] = layers
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"deepstack_visual_indexes is \[.*\], wanted different layers of 0 to"):
        Thinker.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "sizes",
    [
        {"size": {"shortest_edge": 3136, "longest_edge": 20_000}},
        {"min_pixels": 784 * 30, "max_pixels": 784 * 40},
        {"size": {"shortest_edge": 3136, "longest_edge": 90_000}, "max_pixels": 784 * 10},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    ],
)  # fmt: skip
def test_pixels_of_preprocessors(saved_qwen: Path, tmp_path: Path, sizes: dict[str, Any]) -> None:
    folder = edited(saved_qwen, tmp_path, "preprocessor_config.json", **sizes)
    picture = noise(168, 112, 3)
    wanted = transformers.Qwen2VLImageProcessorPil.from_pretrained(folder)([picture], return_tensors="pt")
    (made,) = (
        Thinker.from_pretrained(folder)
        .processor([{"role": "user", "content": [{"type": "image", "image": picture}]}])
        .images
    )
    assert [made.grid.t, made.grid.h, made.grid.w] == wanted["image_grid_thw"][0].tolist()
    assert torch.equal(made.patches_NP, wanted["pixel_values"])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_turns_white(saved_qwen: Path, mode: str) -> None:
    picture = noise(168, 112, 3)
    picture.putalpha(noise(168, 112, 4).convert("L"))
    picture = picture.convert(mode) if mode != "P" else noise(168, 112, 3).quantize(16)
    picture.info["transparency"] = 3
    wanted = transformers.Qwen2VLImageProcessorPil.from_pretrained(saved_qwen)([picture], return_tensors="pt")
    message = {"role": "user", "content": [{"type": "image", "image": picture}]}
    (made,) = Thinker.from_pretrained(saved_qwen).processor([message]).images
    assert torch.equal(made.patches_NP, wanted["pixel_values"])


def test_so_many_frames_of_a_file(saved_qwen: Path, tmp_path: Path) -> None:
    folder = edited(saved_qwen, tmp_path, "video_preprocessor_config.json", num_frames=8, fps=None)
    video = Thinker.from_pretrained(folder).config.video
    assert video is not None
    assert video.num_frames == 8


@pytest.mark.parametrize("limits", [{"max_pixels": 784 * 10}, {"min_pixels": 784 * 30, "max_pixels": 784 * 40}])
def test_a_picture_with_pixels_of_its_own(saved_qwen: Path, limits: dict[str, int]) -> None:
    """As in Qwen's messages, beside one without; the same picture is then two to the cache."""
    picture, thinker = noise(168, 112, 3), Thinker.from_pretrained(saved_qwen)
    parts = [{"type": "image", "image": picture} | limits, {"type": "image", "image": picture}]
    made, usual = thinker.processor([{"role": "user", "content": parts}]).images
    wanted = transformers.Qwen2VLImageProcessorPil.from_pretrained(saved_qwen, **limits)([picture], return_tensors="pt")
    assert [made.grid.t, made.grid.h, made.grid.w] == wanted["image_grid_thw"][0].tolist()
    assert torch.equal(made.patches_NP, wanted["pixel_values"])
    assert usual.grid != made.grid
    assert usual.key != made.key


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_pixels": "many"}, r"\[None, 'many'\], wanted whole numbers above 0"),
        ({"min_pixels": 0}, r"\[0, None\], wanted whole numbers above 0"),
        (
            {"min_pixels": 9000, "max_pixels": 8000},
            "min_pixels is 9000 and max_pixels is 8000, wanted the first no larger",
        ),
    ],
)
def test_pixels_that_leave_no_size(saved_qwen: Path, limits: dict[str, Any], said: str) -> None:
    message = {"role": "user", "content": [{"type": "image", "image": noise(30, 30)} | limits]}
    with pytest.raises(InputError, match=said):
        Thinker.from_pretrained(saved_qwen).processor([message])


@pytest.mark.parametrize(
    ("sizes", "limits"),
    [
        ({"size": {"shortest_edge": 1111, "longest_edge": 2222}}, (1111, 2222)),
        ({"size": {"min_pixels": 1111, "max_pixels": 2222}}, (1111, 2222)),
        ({"min_pixels": 1111, "max_pixels": 2222, "size": {"longest_edge": 9}}, (1111, 2222)),
        ({}, (128 * 784, 768 * 784)),
    ],
)  # fmt: skip
def test_limits_of_videos(saved_qwen: Path, tmp_path: Path, sizes: dict[str, Any], limits: tuple[int, int]) -> None:
    video = Thinker.from_pretrained(
        edited(saved_qwen, tmp_path, "video_preprocessor_config.json", **sizes)
    ).config.video
    assert video is not None
    assert (video.min_pixels, video.max_pixels) == limits


@pytest.mark.parametrize(
    ("file", "within", "values", "said"),
    [
        ("config.json", "text_config", {"topk_method": "greedy"}, "topk_method is 'greedy'; only 'noaux_tc'"),
        ("config.json", "text_config", {"rope_interleave": False}, "rope_interleave is False; only True"),
        ("config.json", "text_config", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'; only"),
        ("config.json", "text_config", {"rope_scaling": {"type": "yarn"}}, "rope_scaling is .*; only None"),
        ("config.json", "text_config", {"kv_lora_rank": "32"}, "text_config: kv_lora_rank is '32', wanted a"),
        ("config.json", "vision_config", {"merge_kernel_size": [2, 4]}, "merge_kernel_size, differ; wanted the same"),
        ("config.json", "text_config", {"v_head_dim": 32}, "v_head_dim is 32, wanted at most 24, which"),
        ("config.json", "text_config", {"n_group": ...}, "text_config lacks the key n_group"),
        ("config.json", "text_config", {"routed_scaling_factor": ...}, "lacks the key routed_scaling_factor"),
        ("preprocessor_config.json", "", {"pad_input": False}, "pad_input is False; only True"),
        ("preprocessor_config.json", "", {"pad_input": ...}, " lacks the key pad_input"),
        ("preprocessor_config.json", "", {"patch_size": 16}, "patch_size is 16; only 14"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_kimi_is_named(
    saved_kimi: Path, tmp_path: Path, file: str, within: str, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"/{file.replace('.', '[.]')}:? ?.*{said}"):
        Thinker.from_pretrained(edited(saved_kimi, tmp_path, file, within, **values))


def test_kimi_turns_as_either_key_says(saved_kimi: Path, tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": kimi.THETA}
    folder = edited(saved_kimi, tmp_path, within="text_config", rope_theta=..., rope_parameters=rope)
    assert Thinker.from_pretrained(folder).config == Thinker.from_pretrained(saved_kimi).config


def test_null_is_as_good_as_left_out(saved_qwen: Path, tmp_path: Path) -> None:
    rope = {"mrope_section": None, "rope_type": "default", "rope_theta": 10_000.0}
    folder = edited(
        saved_qwen, tmp_path, within="text_config", rope_parameters=rope, num_key_value_heads=2, layer_types=None
    )
    edited(folder, tmp_path, "preprocessor_config.json", size=None, image_mean=None)
    thinker = Thinker.from_pretrained(folder)
    assert thinker.config.decoder.mrope_section == (2, 3, 3)
    assert thinker.config.image.max_pixels == 1003520
