"""A saved thinker comes back with the same numbers; a wrong folder is refused in one line naming file and key."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveate.errors import CheckpointError, InputError
from foveate.models import Thinker


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


def test_unknown_roles_and_parts_are_refused(thinker: Thinker) -> None:
    for message in ({"role": "root", "content": ""}, {"role": "user", "content": [{"type": "audio"}]}):
        with pytest.raises(InputError, match="wanted"):
            thinker.processor([message])
