"""A saved thinker comes back with the same numbers; a wrong folder is refused in one line naming file and key."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import noise
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from foveate.errors import CheckpointError, ConfigError, InputError
from foveate.models import Thinker, nano_path
from foveate.models.config import ThinkerConfig, from_json
from foveate.models.processor import Processor


@pytest.fixture
def folder(thinker: Thinker, tmp_path: Path) -> Path:
    thinker.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_round_trip(thinker: Thinker, folder: Path, conversation: list[dict[str, Any]]) -> None:
    loaded = Thinker.from_pretrained(folder)
    inputs = loaded.processor(conversation)
    assert loaded.config == thinker.config
    assert torch.equal(loaded(inputs), thinker(thinker.processor(conversation)))
    assert Thinker.from_pretrained(folder, dtype=torch.bfloat16)(inputs).dtype == torch.bfloat16


def test_a_folder_of_two_dtypes_loads_in_that_of_its_embeddings(thinker: Thinker, tmp_path: Path) -> None:
    thinker.save_pretrained(tmp_path, dtype=torch.bfloat16)
    path, name = tmp_path / "model.safetensors", "decoder.norm.weight"
    tensors = load_file(path)
    save_file(tensors | {name: tensors[name].float()}, path)
    loaded = Thinker.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_loading_does_not_bring_torchs_compiler() -> None:
    """That would be two seconds of every command."""
    code = "import sys; from foveate.models import Thinker as T; T.from_pretrained(sys.argv[1]); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, str(nano_path())], capture_output=True, text=True, check=True)
    assert "foveate.models.thinker" in run.stdout.split()
    assert "torch._dynamo" not in run.stdout.split()


def test_generate_takes_messages(folder: Path, conversation: list[dict[str, Any]]) -> None:
    sample = Thinker.from_pretrained(folder).generate(conversation, max_new_tokens=4, temperature=1.0, seed=0)
    assert 1 <= len(sample.token_ids) <= 4


def edit_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_missing_extra_and_misshapen_tensors_are_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "decoder.norm.weight"
    for broken, message in (
        ({k: v for k, v in tensors.items() if k != name}, f"lacks the tensor {name}"),
        (tensors | {name: torch.zeros(3)}, rf"{name} has shape \[3\]"),
        (tensors | {"stray": torch.zeros(1)}, "holds the tensor stray"),
    ):
        save_file(broken, path)
        with pytest.raises(CheckpointError, match=message):
            Thinker.from_pretrained(folder)


def test_code_unknown_keys_and_missing_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        Thinker.from_pretrained(tmp_path / "nowhere")
    (folder / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Thinker.from_pretrained(folder)
    edit_config(folder, colour="red")
    with pytest.raises(CheckpointError, match="unknown key 'colour'"):
        Thinker.from_pretrained(folder)
    edit_config(folder, auto_map={})
    with pytest.raises(CheckpointError, match="auto_map"):
        Thinker.from_pretrained(folder)


def test_adapters_alone_are_refused_with_the_name_of_their_model(folder: Path, tmp_path: Path) -> None:
    for place in (folder, tmp_path):
        (place / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "acme/tiny"}))
    with pytest.raises(CheckpointError, match="holds adapters of acme/tiny, no model; merge them into it"):
        Thinker.from_pretrained(tmp_path)
    assert Thinker.from_pretrained(folder).config


def test_an_unknown_family_that_brings_code_is_told_what_runs(tmp_path: Path) -> None:
    values = {"model_type": "other_vl", "auto_map": {"AutoModel": "code.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"'other_vl' is not known; wanted one of foveate, .*kimi_vl") as told:
        Thinker.from_pretrained(tmp_path)
    assert "runs as transformers:FOLDER" in str(told.value)
    assert "remove" not in str(told.value)


def test_unknown_roles_and_parts_are_refused(thinker: Thinker) -> None:
    wrong: list[tuple[str, Any]] = [("root", "")]
    wrong += [("user", [part]) for part in ({"type": "audio"}, {"type": "image"}, {"type": "text"}, "text")]
    wrong += [("assistant", [{"type": "image", "image": "a.png"}])]
    for role, content in wrong:
        with pytest.raises(InputError, match="wanted"):
            thinker.processor([{"role": role, "content": content}])
    for key, value in (("tool_calls", [{"id": "1"}]), ("reasoning_content", "Hm.")):
        with pytest.raises(InputError, match=f"a message's {key} would be lost, wanted"):
            thinker.processor([{"role": "assistant", "content": "Yes.", key: value}])


def test_forms_of_text_are_the_same_text(thinker: Thinker) -> None:
    for role in ("user", "assistant"):
        one = thinker.processor([{"role": role, "content": "ab"}]).token_ids
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        two = thinker.processor([{"role": role, "content": parts}]).token_ids
        decode = thinker.processor.codec.tokenizer.decode
        assert decode(one.tolist(), skip_special_tokens=False) == decode(two.tolist(), skip_special_tokens=False)
        assert len(thinker.processor([{"role": role, "content": None}]).token_ids) < len(one)


def test_a_tokenizer_that_was_cut_is_named(folder: Path) -> None:
    whole = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cannot read the tokenizer .*tokenizer\.json"):
        Thinker.from_pretrained(folder)


def test_what_another_trainer_left_in_a_tokenizer_does_not_count(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(pad_to_multiple_of=8)
    text = [{"role": "user", "content": "zoom image box zoom"}]
    wanted = Thinker.from_pretrained(folder).processor(text).token_ids
    tokenizer.save(str(folder / "tokenizer.json"))
    assert torch.equal(Thinker.from_pretrained(folder).processor(text).token_ids, wanted)


def test_a_tokenizer_with_more_ids_than_embeddings_is_named(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"word{number}" for number in range(5000)])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(CheckpointError, match=r"the tokenizer has ids up to \d+, and config.json has embeddings for"):
        Thinker.from_pretrained(folder)


def test_the_single_file_counts_where_there_is_an_index_too(thinker: Thinker, folder: Path) -> None:
    """As in transformers; the shards of before may even be gone."""
    index = {"weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = Thinker.from_pretrained(folder)
    assert torch.equal(loaded.decoder.norm.weight, thinker.decoder.norm.weight)


def test_a_rounding_that_is_none_is_refused(folder: Path) -> None:
    wrong: Any = "int4"
    with pytest.raises(ConfigError, match="rounding is 'int4', wanted None or one of int8, nf4"):
        Thinker.from_pretrained(folder, rounding=wrong)


def test_remembered_pictures_have_a_room(thinker: Thinker) -> None:
    processor = Processor(thinker.config, thinker.processor.codec, room_bytes=2**19)
    sizes = []
    for seed in range(8):
        processor([{"role": "user", "content": [{"type": "image", "image": noise(200, 160, seed)}]}])
        sizes.append(sum(image.patches_NP.nbytes for image in processor._images.values()))
    assert max(sizes) <= 2**19
    assert sizes[-1] > 2**18


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vision": None}, "vision is None, wanted a mapping"),
        ({"vision": {"full_attention_layers": 3}}, "vision.full_attention_layers is 3, wanted a list"),
        ({"vision": {"full_attention_layers": ["a"]}}, "vision.full_attention_layers is 'a', wanted a whole number"),
        ({"decoder": {"moe": 3}}, "decoder.moe is 3, wanted a mapping"),
        ({"decoder": {"mrope_section": [1, 2]}}, r"decoder.mrope_section is \[1, 2\], wanted a list of 3"),
        ({"video": 1}, "video is 1, wanted a mapping"),
    ],
)
def test_wrong_types_are_named_with_their_key(thinker: Thinker, values: dict[str, Any], said: str) -> None:
    plain = thinker.config.to_json()
    for key, value in values.items():
        plain[key] = plain[key] | value if isinstance(value, dict) else value
    with pytest.raises(ConfigError, match=f"^{said}"):
        from_json(ThinkerConfig, plain)
