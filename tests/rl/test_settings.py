"""A run goes on as what it was: another loss, seed or start is named, and what may change does.

And no run writes over the weights that it starts from, or over a run or a model that lies where it would write; that is
said before its stage is made.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from foveate.errors import CheckpointError
from foveate.models import Thinker
from foveate.rl import stages
from foveate.rl.dpo import DpoConfig
from foveate.rl.journal import CHECKPOINT, METRICS, Progress, load_checkpoint, resumed, save_checkpoint
from foveate.rl.optimizer import MasterOptimizer, OptimizerConfig
from foveate.rl.pmd import PmdConfig
from foveate.rl.policy import train_policy
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.preference import PreferenceConfig
from foveate.rl.settings import Settings, refuse_start, settings_of
from foveate.rl.team import ALONE
from foveate.rl.train import TrainConfig, split_config
from foveate.rl.yaml_values import read_yaml

POLICY = PolicyConfig(start="some", iterations=3)
LOOP = TrainConfig(steps=5)
PAIRS = PreferenceConfig(start="some", data="pairs.jsonl")


def optimizer() -> MasterOptimizer:
    return MasterOptimizer(nn.Linear(4, 4), OptimizerConfig())


def again(out: Path, before: Settings, now: Settings) -> Progress:
    """Save with some settings, go on with others."""
    save_checkpoint(out, optimizer(), Progress(3), settings=before)
    return load_checkpoint(out, optimizer(), settings=now)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (settings_of("grpo", POLICY), "training was 'pmd' and is 'grpo'"),
        (settings_of("pmd", replace(POLICY, seed=1)), "seed was 0 and is 1"),
        (settings_of("pmd", replace(POLICY, start="other")), "start was 'some' and is 'other'"),
        (settings_of("pmd", replace(POLICY, pmd=PmdConfig(tau=0.2))), r"pmd\.tau was 0\.1 and is 0\.2"),
    ],
)
def test_another_run_is_named_by_what_differs(now: Settings, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        again(tmp_path, settings_of("pmd", POLICY), now)


def test_a_stage_is_compared_too(tmp_path: Path) -> None:
    before = settings_of("dpo", LOOP, PAIRS)
    for now, said in (
        (settings_of("dpo", LOOP, replace(PAIRS, dpo=DpoConfig(loss="ipo"))), r"stage\.dpo\.loss was 'sigmoid' and"),
        (settings_of("dpo", replace(LOOP, accumulate=2), PAIRS), "accumulate was 1 and is 2"),
        (settings_of("sft", LOOP, PAIRS), "training was 'dpo' and is 'sft'"),
    ):
        with pytest.raises(CheckpointError, match=said):
            again(tmp_path, before, now)


@pytest.mark.parametrize("key", ["start", "tasks"])
def test_files_that_changed_under_the_same_name_are_another_run(key: str, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "answers.jsonl").write_text("{}\n")
    (folder / "README.md").write_text("Of no account.")
    save_file({"weight": torch.zeros(3_000_000)}, folder / "model.safetensors")
    policy = replace(POLICY, **{key: str(folder)})
    before = settings_of("pmd", policy)
    shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    (tmp_path / "copy").rename(folder)
    assert settings_of("pmd", policy) == before
    (folder / "README.md").write_text("Another.")
    assert settings_of("pmd", policy) == before
    if key == "start":
        save_file({"weight": torch.ones(3_000_000)}, folder / "model.safetensors")
    else:
        (folder / "answers.jsonl").write_text("{}\n{}\n")
    what = {"start": "weights", "tasks": "files"}[key]
    with pytest.raises(CheckpointError, match=rf"{key} \({what}\) was"):
        again(tmp_path, before, settings_of("pmd", policy))


def test_what_is_kept_to_go_on_is_no_part_of_a_start(tmp_path: Path) -> None:
    """It may be removed when a training is done."""
    for name in ("model.safetensors", CHECKPOINT, "checkpoint-1-of-2.safetensors"):
        save_file({"weight": torch.zeros(3)}, tmp_path / name)
    policy = replace(POLICY, start=str(tmp_path))
    before = settings_of("pmd", policy)
    for path in tmp_path.glob("checkpoint*"):
        path.unlink()
    assert settings_of("pmd", policy) == before


def test_what_may_change_does(tmp_path: Path) -> None:
    longer = replace(POLICY, iterations=9, at_once=2, trackers=("tensorboard",))
    assert again(tmp_path, settings_of("pmd", POLICY), settings_of("pmd", longer)).step == 3
    shown = replace(LOOP, steps=9, log_every=1, num_workers=0, checkpoint_minutes=1.0)
    assert again(tmp_path, settings_of("dpo", LOOP, PAIRS), settings_of("dpo", shown, PAIRS)).step == 3


def test_a_checkpoint_without_settings_is_read_as_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, optimizer(), Progress(3))
    save_file(load_file(tmp_path / CHECKPOINT), tmp_path / CHECKPOINT, metadata={"step": "3", "window": "[]"})
    assert load_checkpoint(tmp_path, optimizer(), settings=settings_of("pmd", POLICY)).step == 3


def test_a_start_is_not_written_over(thinker: Thinker, tmp_path: Path) -> None:
    thinker.save_pretrained(tmp_path / "start", dtype=torch.float32)
    before = (tmp_path / "start" / "model.safetensors").read_bytes()
    config = replace(POLICY, start=str(tmp_path / "start"))
    for resume in (False, True):
        with pytest.raises(CheckpointError, match="would write over it; name another folder"):
            train_policy("pmd", config, tmp_path / "start" / ".." / "start", resume=resume)
    thinker.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds a model that is not this run's"):
        train_policy("pmd", config, tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds a model that is not this run's"):
        train_policy("pmd", config, tmp_path / "other", resume=True)
    assert (tmp_path / "start" / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(f"*/{METRICS}"))


def test_a_start_at_home_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="would write over it"):
        refuse_start({"start": "~/some"}, tmp_path / "some")


def test_a_tower_is_not_written_over_either(tmp_path: Path) -> None:
    (tmp_path / "tower.safetensors").touch()
    with pytest.raises(CheckpointError, match="would write over it"):
        refuse_start({"stage.start": str(tmp_path / "tower.safetensors")}, tmp_path)
    refuse_start({"stage.start": ""}, tmp_path)


def test_another_run_is_refused_before_its_stage_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: object) -> None:
        raise AssertionError("the stage was made")

    monkeypatch.setattr(stages, "make_stage", made)
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    config.write_text("steps: 5\nstage: {preset: tiny}\n")
    loop, stage = split_config(read_yaml(config))
    out.mkdir()
    settings = settings_of("tower", loop, stages.config_of("tower", stage))
    save_checkpoint(out, optimizer(), Progress(3), settings=settings)
    with pytest.raises(CheckpointError, match="holds a run already; go on with --resume"):
        stages.main("tower", config, out)
    with pytest.raises(CheckpointError, match="seed was 0 and is 7"):
        stages.main("tower", config, out, resume=True, seed=7)
    with pytest.raises(AssertionError, match="the stage was made"):
        stages.main("tower", config, out, resume=True)
    (out / CHECKPOINT).rename(out / "checkpoint-2-of-2.safetensors")
    with pytest.raises(CheckpointError, match="seed was 0 and is 7"):
        stages.main("tower", config, out, resume=True, seed=7)
    (out / "checkpoint-2-of-2.safetensors").rename(out / "config.json")
    with pytest.raises(CheckpointError, match="holds a model that is not this run's"):
        stages.main("tower", config, out, resume=True)


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / METRICS).write_text(json.dumps({"iteration": 1}))
    assert resumed(tmp_path, optimizer(), ALONE) == Progress()
