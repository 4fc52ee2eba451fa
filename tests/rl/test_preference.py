"""Pairs of rollouts train: each side with its own crops.

Proved with the tiny thinker: the first DPO loss is log 2, exactly in f32, and goes down, the chosen side gains; a batch
is its pairs accumulated, for the losses that are means over pairs; a file without pairs is refused, and so is a
policy that says no numbers.
"""

import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from played import BUDGET, jobs, whole

from foveate.errors import InputError, ModelError
from foveate.models import Thinker
from foveate.models.transcript import pack
from foveate.rl import trainable
from foveate.rl.dpo import DpoConfig
from foveate.rl.preference import PairBatch, PreferenceConfig, PreferenceStage
from foveate.rl.rollout import Trajectory, rollouts
from foveate.rl.team import ALONE
from foveate.rl.train import TrainConfig, _learn, _Loss, train
from foveate.rl.trainable import LoraConfig
from foveate.rl.trajectory import write_trajectories


@pytest.fixture(scope="module")
def played(thinker: Thinker) -> list[Trajectory]:
    with rollouts(thinker, at_once=4, budget=BUDGET, keeps_messages=True) as playing:
        return list(playing.play(jobs(6)))


@pytest.fixture
def data(played: list[Trajectory], tmp_path: Path) -> Path:
    write_trajectories(tmp_path / "ended.jsonl", whole(played))
    return tmp_path / "ended.jsonl"


def test_dpo_starts_at_log_2_and_prefers_the_chosen(thinker: Thinker, data: Path, tmp_path: Path) -> None:
    thinker.save_pretrained(tmp_path / "start")
    stage = PreferenceStage(PreferenceConfig(start=str(tmp_path / "start"), data=str(data)), 0, "cpu")
    loss, _ = stage.loss(stage.batch(0))
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=5e-2)
    config = TrainConfig(steps=8, num_workers=0, log_every=1)
    config = replace(config, optimizer=replace(config.optimizer, lr=3e-3, muon=False, warmup_steps=1))
    assert train(stage, config, tmp_path / "out") == 8
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["preferred"] == 1.0
    assert Thinker.from_pretrained(tmp_path / "out").config == thinker.config


@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(rank=2)], ids=["whole", "lora"])
def test_the_first_loss_is_exactly_log_2_in_f32(
    lora: LoraConfig, thinker: Thinker, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "compute_dtype", lambda _: torch.float32)
    thinker.save_pretrained(tmp_path / "start")
    config = PreferenceConfig(start=str(tmp_path / "start"), data=str(data), pairs_per_batch=2, lora=lora)
    stage = PreferenceStage(config, 0, "cpu")
    for index in range(3):
        loss, metrics = stage.loss(stage.batch(index))
        assert float(loss.detach()) == pytest.approx(math.log(2), abs=1e-6)
        assert metrics["margin"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo", "robust"])
def test_a_batch_is_its_pairs_accumulated(
    loss: Any, thinker: Thinker, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainable, "compute_dtype", lambda _: torch.float32)
    thinker.save_pretrained(tmp_path / "start")
    dpo = DpoConfig(loss=loss)
    config = PreferenceConfig(start=str(tmp_path / "start"), data=str(data), pairs_per_batch=2, dpo=dpo)
    stage = PreferenceStage(config, 0, "cpu")
    stage.references = [reference_B + torch.tensor([0.3, -0.2]) for reference_B in stage.references]  # as if it moved
    together = stage.batch(0)
    alone = [
        PairBatch(transcript=pack([pair]), reference_B=reference_B)
        for pair, reference_B in zip(stage.seen_pairs, stage.references, strict=True)
    ]
    assert stage.weight(together) == len(alone) > 1
    gradients = []
    for some in ([together], alone):
        _learn(_Loss(stage), stage, some, ALONE)
        grads = [p.grad for p in stage.module.parameters() if p.grad is not None]
        gradients.append(torch.cat([grad.flatten().clone() for grad in grads]))
        stage.module.zero_grad(set_to_none=True)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5 * float(gradients[0].abs().max()), rtol=1e-3)


def test_a_file_without_pairs_is_refused(thinker: Thinker, played: list[Trajectory], tmp_path: Path) -> None:
    write_trajectories(tmp_path / "one.jsonl", played[:1])
    thinker.save_pretrained(tmp_path / "start")
    with pytest.raises(InputError, match="makes no pair"):
        PreferenceStage(PreferenceConfig(start=str(tmp_path / "start"), data=str(tmp_path / "one.jsonl")), 0, "cpu")


def test_a_policy_that_says_no_number_is_refused_with_the_row(thinker: Thinker, data: Path, tmp_path: Path) -> None:
    broken = deepcopy(thinker)
    broken.decoder.norm.weight.fill_(math.nan)
    broken.save_pretrained(tmp_path / "start")
    with pytest.raises(ModelError, match=r"start says no number of row 0 of .*ended\.jsonl; look at its weights"):
        PreferenceStage(PreferenceConfig(start=str(tmp_path / "start"), data=str(data)), 0, "cpu")
