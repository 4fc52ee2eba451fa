"""A thinker whose decoder is rounded to int8 says nearly what it says without, and is refused where it cannot serve."""

from pathlib import Path
from typing import Any

import kimi
import pytest
import qwen
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.errors import CheckpointError
from foveate.models import Thinker, nano_path
from foveate.models.linear import Linear
from foveate.models.load import load_reasoner
from foveate.models.moe import MoE
from foveate.models.reasoner import Rounding
from foveate.models.shards import Shards
from foveate.ops import Int8Rows, Nf4Rows


@pytest.mark.parametrize("rounding", ["int8", "nf4"])
def test_weights_that_are_no_numbers_are_named(rounding: Rounding, tmp_path: Path) -> None:
    qwen.save("qwen2_5_vl", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.mlp.down_proj.weight"))
    tensors[name][3, 5] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    said = rf"^{tmp_path}: .*1.*down.*: row 3 of weights .* has nan; (int8|nf4) wants"
    with pytest.raises(CheckpointError, match=said):
        Thinker.from_pretrained(tmp_path, rounding=rounding)


QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "What is 6 times 7?"}]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl_moe", "kimi_vl"])
def test_each_number_is_off_by_half_a_step_at_most(family: str, tmp_path: Path) -> None:
    kimi.save(tmp_path) if family == "kimi_vl" else qwen.save(family, tmp_path)
    exact, rounded = Thinker.from_pretrained(tmp_path), Thinker.from_pretrained(tmp_path, rounding="int8")
    changed = 0
    for name, module in exact.decoder.named_modules():
        if isinstance(module, Linear | MoE):
            twin = rounded.decoder.get_submodule(name)
            weights = [module.weight] if isinstance(module, Linear) else [module.gate_up, module.down]
            int8 = twin.rounded if isinstance(module, MoE) else [twin.rounded]
            for weight, rows in zip(weights, int8, strict=True):
                assert ((rows.dequantized(torch.float32) - weight).abs() <= rows.scales[..., None] * 0.501).all()
                changed += 1
    assert changed > 10
    inputs = exact.processor(QUESTION)
    wanted, got = exact(inputs), rounded(inputs)
    assert 0 < (got - wanted).norm() / wanted.norm() < 0.1  # a token may go to another expert
    assert rounded.generate(QUESTION, max_new_tokens=8).token_ids


@pytest.mark.parametrize("family", ["qwen2_5_vl", "kimi_vl"])
def test_numbers_are_rounded_as_they_are_stored_and_the_rest_is_converted(family: str, tmp_path: Path) -> None:
    """What is rounded need not be in memory in another dtype before."""
    kimi.save(tmp_path) if family == "kimi_vl" else qwen.save(family, tmp_path)
    exact = Thinker.from_pretrained(tmp_path)
    half = Thinker.from_pretrained(tmp_path, dtype=torch.bfloat16, rounding="int8")
    for name, module in half.decoder.named_modules():
        if isinstance(module, Linear):
            assert module.rounded is not None
            assert torch.equal(module.rounded.values, Int8Rows.of(exact.decoder.get_submodule(name).weight).values)
    for name, parameter in half.named_parameters():
        kept = name.endswith("correction_bias")
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16)
        assert not kept or torch.equal(parameter, exact.get_parameter(name))


def test_decoding_runs_over_the_rounded_weights_too(tmp_path: Path) -> None:
    qwen.save("qwen2_5_vl", tmp_path)
    thinker = Thinker.from_pretrained(tmp_path, dtype=torch.bfloat16, rounding="int8")
    said = thinker.generate(QUESTION, max_new_tokens=12)
    turn = {"role": "assistant", "content": said.text, "token_ids": list(said.token_ids)}
    inputs = thinker.processor([*QUESTION, turn])
    first = int(inputs.by_policy_T.nonzero()[0])
    logprobs = thinker(inputs)[first - 1 : first - 1 + len(said.token_ids)].float().log_softmax(-1)
    again = logprobs[range(len(said.token_ids)), list(said.token_ids)]
    torch.testing.assert_close(again, torch.tensor(said.logprobs), atol=0.1, rtol=0)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl_moe"])
def test_rounded_weights_go_where_the_model_goes(family: str, tmp_path: Path) -> None:
    qwen.save(family, tmp_path)
    thinker = Thinker.from_pretrained(tmp_path, rounding="int8").to(torch.bfloat16).to("meta")
    for module in thinker.decoder.modules():
        if isinstance(module, Linear | MoE):
            assert module.rounded is not None
            for rows in module.rounded if isinstance(module, MoE) else [module.rounded]:
                assert (rows.values.device.type, rows.scales.device.type) == ("meta", "meta")
                assert (rows.values.dtype, rows.scales.dtype) == (torch.int8, torch.float32)


def test_a_suffix_of_the_name_asks_for_it() -> None:
    reasoner = load_reasoner("nano:int8")
    head = reasoner.thinker.decoder.head
    assert reasoner.name == "nano:int8"
    assert head.rounded is not None
    assert head.rounded.values.dtype == torch.int8
    assert load_reasoner("nano").thinker.decoder.head.rounded is None


def test_four_bits_leave_the_head_and_odd_rows_in_eight(tmp_path: Path) -> None:
    qwen.save("qwen2_5_vl", tmp_path)
    decoder = Thinker.from_pretrained(tmp_path, rounding="nf4").decoder
    for name, module in decoder.named_modules():
        if isinstance(module, Linear):
            assert isinstance(module.rounded, Int8Rows if name == "head" or module.in_features % 64 else Nf4Rows)
    reasoner = load_reasoner("nano:nf4")
    kinds = {type(rows) for moe in reasoner.thinker.decoder.modules() if isinstance(moe, MoE) for rows in moe.rounded}
    assert kinds == {Nf4Rows}
    assert isinstance(reasoner.thinker.decoder.head.rounded, Int8Rows)


def test_nano_in_four_bits_says_nearly_what_it_says_without() -> None:
    exact, rounded = Thinker.from_pretrained("nano"), Thinker.from_pretrained("nano", rounding="nf4")
    inputs = exact.processor(QUESTION)
    wanted, got = exact(inputs).float(), rounded(inputs).float()
    assert 0 < (got - wanted).norm() / wanted.norm() < 0.35
    assert rounded.generate(QUESTION, max_new_tokens=8).token_ids


def test_rounded_weights_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="load the folder without :int8 or :nf4"):
        Thinker.from_pretrained(nano_path(), rounding="int8").save_pretrained(tmp_path)


def test_a_layer_is_rounded_before_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts are put together from many tensors: those of all layers at once may not fit into memory."""
    kimi.save(tmp_path)
    done, read, by_hand = list[str](), Shards.read, MoE.round

    def noted(shards: Shards, name: str) -> Tensor:
        done.append(name)
        return read(shards, name)

    def rounded(moe: MoE, by: Any) -> None:
        done.append("rounded")
        by_hand(moe, by)

    monkeypatch.setattr(Shards, "read", noted)
    monkeypatch.setattr(MoE, "round", rounded)
    Thinker.from_pretrained(tmp_path, rounding="int8")
    first = done.index("rounded")
    before, after = (any(".layers.2." in name for name in some) for some in (done[:first], done[first:]))
    assert (before, after) == (False, True)
