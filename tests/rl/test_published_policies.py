"""Published shapes learn like nano does: DPO, and an iteration of PMD in the agent's graph, with adapters or without.

Proved on tiny random Qwen2.5-VL and Kimi-VL folders: rollouts have the tools of an agent, and draw from all of the
distribution whatever a folder names; losses are numbers and weights change; with adapters only they learn, what is
saved is the sum and says what the thinker with adapters says; the folder loads again in its own form, and as before in
all that did not learn.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import kimi
import pytest
import qwen
import torch
from played import BUDGET, jobs, whole
from torch import nn

from foveate.models import Thinker
from foveate.rl.learner import Learner, Said
from foveate.rl.logprobs import written_logprobs
from foveate.rl.optimizer import OptimizerConfig
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.pooled import PooledPython
from foveate.rl.preference import PreferenceConfig, PreferenceStage
from foveate.rl.rollout import Trajectory, rollouts
from foveate.rl.train import TrainConfig, train
from foveate.rl.trainable import LoraConfig, export, make_trainable, whole_weights
from foveate.rl.trajectory import write_trajectories
from foveate.tools import default_tools

pytestmark = pytest.mark.usefixtures("quiet")

FAMILIES: dict[str, Any] = {"kimi_vl": kimi.save, "qwen2_5_vl": lambda folder: qwen.save("qwen2_5_vl", folder)}
LORA = LoraConfig(rank=2, alpha=8)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](path)
    return path


@pytest.fixture(scope="module")
def played(folder: Path) -> list[Trajectory]:
    with rollouts(Thinker.from_pretrained(folder), at_once=2, budget=BUDGET, keeps_messages=True) as playing:
        return whole(list(playing.play(jobs(4))))


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    wanted = dict(before.named_parameters())
    return {name for name, parameter in after.named_parameters() if not torch.equal(parameter, wanted[name])}


def only_linear_layers_of_the_decoder(names: set[str]) -> bool:
    return all(name.startswith("decoder.blocks.") and not {"router", "kv_up"} & {*name.split(".")} for name in names)


def test_rollouts_have_the_tools_of_an_agent(folder: Path, thinker: Thinker) -> None:
    query = {"query": "how high is Mount Kilimanjaro"}
    for model, terse in ((Thinker.from_pretrained(folder), False), (thinker, True)):
        with rollouts(model, at_once=1) as playing:
            zoom, python, search = (tool.for_run() for tool in playing.tools())
        wanted = default_tools(terse=terse)
        assert zoom.name == "zoom"
        assert isinstance(python, PooledPython)
        assert python.max_chars == wanted[1].max_chars  # type: ignore[attr-defined]
        assert search.call(query, []) == wanted[2].call(query, [])
    assert wanted[2].call(query, []) != default_tools(terse=False)[2].call(query, [])


def test_rollouts_draw_from_all_of_the_distribution(tmp_path: Path) -> None:
    qwen.save("qwen2_5_vl", tmp_path)
    named = {"top_k": 20, "top_p": 0.8, "repetition_penalty": 1.3}
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | named))
    thinker = Thinker.from_pretrained(tmp_path)
    assert {name: getattr(thinker.config, name) for name in named} == named
    with rollouts(thinker, at_once=1) as playing:
        choice = playing.reasoner.engine.choice
    assert {name: getattr(choice, name) for name in named} == {"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


@pytest.mark.parametrize("lora", [LoraConfig(), LORA], ids=["whole", "lora"])
def test_an_iteration_of_pmd(folder: Path, played: list[Trajectory], lora: LoraConfig, tmp_path: Path) -> None:
    thinker, config = Thinker.from_pretrained(folder), PolicyConfig(start=str(folder), iterations=1, updates=1)
    make_trainable(thinker, lora, tower=False)
    config = replace(config, optimizer=replace(config.optimizer, lr=1e-2))
    row = Learner("pmd", config, Said(thinker)).learn(0, played)
    assert row["grad_norm"] > 0
    assert abs(row["kl"]) < 1e-4  # the first step is taken on what the policy itself sampled
    thinker.save_pretrained(tmp_path, weights=whole_weights(thinker))
    again = Thinker.from_pretrained(tmp_path)
    names = changed(Thinker.from_pretrained(folder), again)
    assert names
    assert not any(name.startswith("vision.") for name in names)
    assert only_linear_layers_of_the_decoder(names) == bool(lora.rank)
    for trajectory in played:
        got, wanted = (written_logprobs(one, trajectory.transcript).detach() for one in (again, thinker))
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lora", [LoraConfig(), LORA], ids=["whole", "lora"])
def test_dpo(folder: Path, played: list[Trajectory], lora: LoraConfig, tmp_path: Path) -> None:
    write_trajectories(tmp_path / "some.jsonl", played)
    config = PreferenceConfig(start=str(folder), data=str(tmp_path / "some.jsonl"), lora=lora)
    stage = PreferenceStage(config, 0, "cpu")
    optimizer = OptimizerConfig(lr=1e-2, muon=False, warmup_steps=1)
    assert train(stage, TrainConfig(steps=3, num_workers=0, log_every=1, optimizer=optimizer), tmp_path / "out") == 3
    before, after = (Thinker.from_pretrained(path, dtype=torch.bfloat16) for path in (folder, tmp_path / "out"))
    names = changed(before, after)
    assert names
    assert not any(name.startswith("vision.") for name in names)
    assert only_linear_layers_of_the_decoder(names) == bool(lora.rank)
    _, metrics = stage.loss(stage.batch(0))
    assert metrics["preferred"] == 1.0
    assert [name for name, p in stage.module.named_parameters() if p.requires_grad and "lora_" not in name] == [
        name
        for name, _ in stage.module.named_parameters()
        if name.startswith("decoder.") and not name.endswith("correction_bias") and not lora.rank
    ]


def test_what_learned_without_a_penalty_is_asked_without_one(tmp_path: Path) -> None:
    qwen.save("qwen2_5_vl", tmp_path / "start")
    path = tmp_path / "start" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.3}))
    before = json.loads(path.read_text())
    thinker = Thinker.from_pretrained(tmp_path / "start")
    thinker.save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / path.name).read_text()) == before
    make_trainable(thinker, LoraConfig(), tower=False)
    export(thinker, tmp_path / "learned")
    assert json.loads((tmp_path / "learned" / path.name).read_text()) == before | {"repetition_penalty": 1.0}
    assert Thinker.from_pretrained(tmp_path / "learned").config.repetition_penalty == 1.0
