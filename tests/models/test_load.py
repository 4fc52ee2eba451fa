"""Names of models: what is none is told before anything loads; what torch cannot do is an error of the model.

Weights are computed with in what the processor multiplies.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.errors import ConfigError, ModelError
from foveate.models import load
from foveate.models.device import put_on
from foveate.models.generate import ThinkerReasoner
from foveate.models.load import known_model, load_reasoner, reasoner_of
from foveate.models.thinker import Thinker
from foveate.ops import compute_dtype, native
from foveate.paths import existing_file, is_file, is_folder


@pytest.mark.parametrize("name", ["gpt-9", "./nope", "~/nope", ""])
def test_what_names_no_model_is_told_what_does(name: str) -> None:
    with pytest.raises(ModelError, match=r"wanted nano, a folder that holds a checkpoint, OWNER/NAME of the hub"):
        load_reasoner(name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"], ids=["long", "nul"])
def test_what_could_be_no_name_is_no_file_no_folder_and_no_model(name: str) -> None:
    assert (is_file(name), is_folder(name), existing_file(name)) == (False, False, None)
    with pytest.raises(ModelError, match="wanted nano, a folder that holds a checkpoint"):
        known_model(name)
    with pytest.raises(ModelError, match="wanted a folder behind transformers:"):
        known_model(f"transformers:{name}")


@pytest.mark.parametrize("name", ["transformers:/nope", "transformers:nano", "transformers:llava-hf/llava-1.5-7b-hf"])
def test_what_transformers_loads_must_lie_here(name: str) -> None:
    with pytest.raises(ModelError, match="wanted a folder behind transformers:; fetch a model of the hub first"):
        load_reasoner(name)


@pytest.mark.parametrize("name", ["nano", "nano:int8", "Qwen/Qwen3-VL-2B", "http://localhost:8000/v1#x"])
def test_what_needs_no_folder_stays_as_it_is(name: str) -> None:
    assert known_model(name) == name


@pytest.mark.parametrize(("prefix", "suffix"), [("", ""), ("", ":int8"), ("transformers:", "")])
def test_a_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, suffix: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert known_model(f"{prefix}~/model{suffix}") == f"{prefix}{tmp_path}/model{suffix}"


@pytest.mark.parametrize("suffix", ["", ":int8"])
def test_half_precision_becomes_what_kernels_take(thinker: Thinker, tmp_path: Path, suffix: str) -> None:
    thinker.save_pretrained(tmp_path, dtype=torch.float16)
    reasoner = load_reasoner(f"{tmp_path}{suffix}")
    assert isinstance(reasoner, ThinkerReasoner)
    assert {p.dtype for p in reasoner.thinker.parameters() if p.numel()} == {compute_dtype()}


@pytest.mark.parametrize(
    ("features", "dtype"),
    [((), torch.float32), (("avx512bf16",), torch.bfloat16), (("amx_bf16",), torch.bfloat16)],
    ids=["none", "avx512", "amx"],
)
def test_bf16_is_computed_with_where_the_processor_multiplies_it(
    thinker: Thinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], dtype: torch.dtype
) -> None:
    thinker.save_pretrained(tmp_path, dtype=torch.bfloat16)
    monkeypatch.setattr(native, "_FEATURES", features)
    assert compute_dtype() == dtype
    reasoner = load_reasoner(tmp_path)
    assert isinstance(reasoner, ThinkerReasoner)
    assert {p.dtype for p in reasoner.thinker.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("name", "device", "told"),
    [
        ("nano", "tpu", "device is 'tpu', which torch cannot use (.*); wanted cpu, or cuda"),
        ("nano", "meta", "device is 'meta', which torch cannot use (.*); wanted cpu, or cuda"),
        ("nano", "cpu:5:", "device is 'cpu:5:', which torch cannot use (.*); wanted cpu, or cuda"),
        ("nano:int8", "cuda", "device is 'cuda' and the model 'nano:int8', rounded for processors; wanted cpu"),
        ("http://localhost:8000/v1#x", "cpu", "device is 'cpu' and the model .*, which runs elsewhere; wanted auto"),
    ],
)
def test_a_device_that_cannot_be_is_told(name: str, device: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_reasoner(name, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match="device is 'cuda', which torch cannot use"):
        load_reasoner("nano", "cuda")


def test_a_gpu_is_taken_where_there_is_one(thinker: Thinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for nano, and for what is rounded."""
    thinker.save_pretrained(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(load, "device_of", lambda name: asked.append(name) or torch.device("cpu"))
    for name in (str(tmp_path), f"{tmp_path}:int8", "nano"):
        load_reasoner(name)
    load_reasoner(tmp_path, "cpu")
    assert asked == ["cuda", "cpu", "cpu", "cpu"]


def test_no_room_on_a_device_is_told_with_what_is_wanted(thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(thinker, "to", full)
    size = sum(parameter.nbytes for parameter in thinker.parameters())
    with pytest.raises(ModelError, match=f"cuda:1 has no room for weights of {size:,} bytes; wanted cpu"):
        put_on(thinker, torch.device("cuda:1"))


def test_int8_is_for_our_own_thinker(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="runs without it"):
        known_model(f"transformers:{tmp_path}:int8")


def test_what_is_no_reasoner_is_told(thinker: Thinker) -> None:
    reasoner = ThinkerReasoner(thinker)
    assert reasoner_of(reasoner) is reasoner
    wrong: Any = thinker
    with pytest.raises(ConfigError, match=r"got a model of the type Thinker, .*ThinkerReasoner"):
        reasoner_of(wrong)
    with pytest.raises(ConfigError, match="no name but a ThinkerReasoner, which is somewhere already; wanted auto"):
        reasoner_of(reasoner, "cpu")


def test_what_torch_cannot_do_is_a_failure_of_the_model(thinker: Thinker, conversation: list[dict[str, Any]]) -> None:
    reasoner = ThinkerReasoner(thinker)
    with pytest.raises(ModelError, match=r"\Afoveate failed while it sampled: RuntimeError: "):
        reasoner.sample(conversation, max_new_tokens=2, temperature=1e308)
    assert reasoner.sample(conversation, max_new_tokens=2) == ThinkerReasoner(thinker).sample(
        conversation, max_new_tokens=2
    )
