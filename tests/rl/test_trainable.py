"""What adapters learned leaves a run: added to the weights, and by itself.

Proved with the tiny thinker in bf16: a checkpoint in bf16 is the sum to the last bit that bf16 has, and loses most of
adapters that have learned little; what lies beside it, taken up by peft, says what was learned, and adapters begin
alike in every process.
"""

from copy import deepcopy
from pathlib import Path

import peft
import torch
from played import BUDGET, jobs
from safetensors.torch import load_file
from torch import Tensor

from foveate.models import Thinker
from foveate.rl.logprobs import written_logprobs
from foveate.rl.rollout import rollouts
from foveate.rl.trainable import ADAPTERS, LoraConfig, export, make_trainable, whole_weights


def adapted(thinker: Thinker, scale: float) -> Thinker:
    """One in bf16 whose adapters add about a share of each weight."""
    learned = deepcopy(thinker).bfloat16()
    make_trainable(learned, LoraConfig(rank=2, alpha=2), tower=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in learned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
                owner = learned.get_submodule(name.split(".lora_B")[0])
                size = owner.base_layer.weight.float().norm() / owner.get_delta_weight("default").float().norm()
                parameter.mul_(scale * size)
    return learned


def lost(thinker: Thinker) -> float:
    """How far the sums in bf16 are from the sums, as a share of what adapters add."""
    off, added = [], list[Tensor]()
    weights = whole_weights(thinker)
    for name, base in thinker.named_parameters():
        owner, _, leaf = name.rpartition(".base_layer.")
        if owner and leaf == "weight":
            delta = thinker.get_submodule(owner).get_delta_weight("default").detach().float()
            added.append(delta.flatten())
            off.append((weights[f"{owner}.weight"].float() - (base.detach().float() + delta)).flatten())
    return float(torch.cat(off).norm() / torch.cat(added).norm())


def test_a_sum_in_bf16_loses_what_is_small(thinker: Thinker) -> None:
    assert lost(adapted(thinker, 0.1)) < 0.03
    assert 0.1 < lost(adapted(thinker, 0.01)) < 0.3
    assert lost(adapted(thinker, 0.0005)) > 0.9


def test_adapters_lie_beside_the_sum_as_they_are(thinker: Thinker, tmp_path: Path) -> None:
    learned = adapted(thinker, 0.0005)
    export(learned, tmp_path)
    assert Thinker.from_pretrained(tmp_path).config == thinker.config
    again = deepcopy(thinker).bfloat16()
    peft.inject_adapter_in_model(peft.LoraConfig.from_pretrained(str(tmp_path / ADAPTERS)), again, "default")
    peft.set_peft_model_state_dict(again, peft.load_peft_weights(str(tmp_path / ADAPTERS), device="cpu"))
    with rollouts(deepcopy(thinker), at_once=1, budget=BUDGET) as playing:
        (said,) = playing.play(jobs(1))
    with torch.no_grad():
        assert torch.equal(written_logprobs(again, said.transcript), written_logprobs(learned, said.transcript))
    export(thinker, tmp_path / "whole")
    assert not (tmp_path / "whole" / ADAPTERS).exists()


def test_adapters_begin_alike(thinker: Thinker, tmp_path: Path) -> None:
    for name in ("one", "other"):
        torch.rand(3)
        learning = deepcopy(thinker)
        make_trainable(learning, LoraConfig(rank=2), tower=False)
        export(learning, tmp_path / name)
    one, other = (load_file(tmp_path / name / ADAPTERS / "adapter_model.safetensors") for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
