"""Rollouts become files, files become pairs, pairs train: each side with its own crops.

Proved with the tiny thinker: a file read back lays out the transcript that was sampled, with its log-probabilities;
pairs are right over wrong, looked over guessed, short over long, of one question each and whole conversations only; the
first DPO loss is log 2 and goes down, the chosen side gains; a broken file and one without pairs are refused.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from played import BUDGET, jobs, whole

from foveate.agent.images import ImageStore
from foveate.cli import main
from foveate.errors import InputError
from foveate.models import Thinker
from foveate.rl import rollouts as command
from foveate.rl.pairs import pairs_of
from foveate.rl.preference import PreferenceConfig, PreferenceStage
from foveate.rl.rollout import Trajectory, rollouts
from foveate.rl.train import TrainConfig, train
from foveate.rl.trajectory import Saved, read_trajectories, write_trajectories


@pytest.fixture(scope="module")
def played(thinker: Thinker) -> list[Trajectory]:
    with rollouts(thinker, at_once=4, budget=BUDGET, keeps_messages=True) as playing:
        return list(playing.play(jobs(6)))


def test_a_file_read_back_is_what_was_sampled(thinker: Thinker, played: list[Trajectory], tmp_path: Path) -> None:
    assert write_trajectories(tmp_path / "some.jsonl", played) == 6
    read = list(read_trajectories(tmp_path / "some.jsonl"))
    for saved, trajectory in zip(read, played, strict=True):
        transcript = thinker.processor(saved.resolved())
        assert torch.equal(transcript.token_ids, trajectory.transcript.token_ids)
        assert torch.equal(transcript.by_policy_T, trajectory.transcript.by_policy_T)
        assert [image.key for image in transcript.images] == [image.key for image in trajectory.transcript.images]
        assert torch.equal(saved.sampled_S, trajectory.sampled_S)
        assert (saved.answer, saved.right, saved.group) == (trajectory.answer, trajectory.right, trajectory.job.group)


def test_a_broken_file_is_named_with_its_line(played: list[Trajectory], tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    with pytest.raises(InputError, match=r"some\.jsonl"):
        list(read_trajectories(path))
    write_trajectories(path, played[:2])
    good = path.read_text().splitlines()
    for line, message in (
        ("{", r"jsonl:2 is no trajectory"),
        (json.dumps(json.loads(good[1]) | {"schema_version": 99}), "schema_version 99, wanted 1"),
    ):
        path.write_text(f"{good[0]}\n{line}\n")
        with pytest.raises(InputError, match=message):
            list(read_trajectories(path))


def saved(name: str, group: int, *, right: bool, tokens: int, calls: int = 1, status: str = "answered") -> Saved:
    return Saved(
        id=name, group=group, family="label", question="?", expected="x", answer="x" if right else "y", right=right,
        status=status, tool_calls=calls, messages=(), sampled_S=torch.zeros(tokens), pictures=ImageStore(),
    )  # fmt: skip


def test_pairs_are_of_one_question_and_for_a_reason() -> None:
    group = [
        saved("long", 0, right=True, tokens=40),
        saved("short", 0, right=True, tokens=20),
        saved("guess", 0, right=True, tokens=5, calls=0),
        saved("wrong", 0, right=False, tokens=20),
        saved("cut", 0, right=False, tokens=20, status="out_of_budget"),
        saved("other", 1, right=False, tokens=20),
        saved("alike", 2, right=True, tokens=20),
        saved("alike too", 2, right=True, tokens=21),
    ]
    found = {(pair.chosen.id, pair.rejected.id, pair.reason) for pair in pairs_of(group)}
    assert found == {("guess", "wrong", "right"), ("short", "guess", "faithful"), ("short", "long", "short")}


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


def test_a_file_without_pairs_is_refused(thinker: Thinker, played: list[Trajectory], tmp_path: Path) -> None:
    write_trajectories(tmp_path / "one.jsonl", played[:1])
    thinker.save_pretrained(tmp_path / "start")
    with pytest.raises(InputError, match="makes no pair"):
        PreferenceStage(PreferenceConfig(start=str(tmp_path / "start"), data=str(tmp_path / "one.jsonl")), 0, "cpu")


def test_rollout_writes_and_says_what_came(
    thinker: Thinker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thinker.save_pretrained(tmp_path / "model")
    out = tmp_path / "some.jsonl"
    arguments = ["rollout", "--model", str(tmp_path / "model"), "--prompts", "2", "--samples", "1", "--at-once", "2"]
    assert main([*arguments, "--tasks", "label", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("2 conversations, ")
    assert [one.family for one in read_trajectories(out)] == ["label", "label"]
    assert main([*arguments, "--tasks", "chess", "--out", str(out)]) == 2
    assert "chess" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "some.txt")]) == 2


def test_a_rollout_computes_in_what_the_processor_multiplies(
    thinker: Thinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thinker.save_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    play, dtypes = command.rollouts, list[torch.dtype]()

    def watched(thinker: Thinker, **settings: Any) -> Any:
        dtypes.append(thinker.decoder.embed.weight.dtype)
        return play(thinker, **settings)

    monkeypatch.setattr(command, "compute_dtype", lambda: torch.float32)
    monkeypatch.setattr(command, "rollouts", watched)
    command.roll_out(tmp_path / "model", tmp_path / "some.jsonl", tasks="label", prompts=1, samples=1)
    assert dtypes == [torch.float32]
