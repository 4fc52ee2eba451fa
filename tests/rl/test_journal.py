"""A run that was killed goes on as if it had not been, and what cannot be gone on from is refused.

Proved with real kills (SIGKILL as soon as a row or a checkpoint is there, at random moments, and in the middle of a
save) of a supervised run, of one of preferences and of a policy's: rows and weights at the end equal, bit by bit, those
of a run that nobody killed. A full disk leaves the old checkpoint and says so; pickles, other models' checkpoints and
half-written rows do no harm; steps without a number are counted, and many in a row end the run. A kill between two
renames of a team, which threads play here, loses nothing; it refuses checkpoints of different steps.
"""

import json
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
import yaml
from disk import full_disk
from played import LONG, unsure
from safetensors.torch import load_file
from torch import Tensor, nn

from foveate.cli import main
from foveate.errors import CheckpointError, ModelError
from foveate.models import Thinker
from foveate.models.config import TINY
from foveate.models.tokenizer import make_tokenizer
from foveate.rl.journal import (
    CHECKPOINT,
    METRICS,
    Progress,
    keep_rows,
    load_checkpoint,
    refuse_another,
    resumed,
    save_checkpoint,
)
from foveate.rl.optimizer import MasterOptimizer, OptimizerConfig
from foveate.rl.team import ALONE, Team
from foveate.rl.train import Metrics, TrainConfig, train


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / METRICS).read_text().splitlines() if (folder / METRICS).is_file() else []
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def supervised(folder: Path) -> list[str]:
    make_tokenizer(["zoom", "image", "box"], TINY.decoder.vocab_size).save(str(folder / "tokenizer.json"))
    settings = {
        "steps": 9, "log_every": 2, "num_workers": 0, "checkpoint_minutes": 0.0, "optimizer": {"warmup_steps": 2},
        "stage": {"preset": "tiny", "tokenizer": str(folder / "tokenizer.json"), "tokens_per_batch": 150,
                  "max_questions": 1, "families": ["label"]},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return ["train", "sft", "--config", str(folder / "run.yaml")]


def policy(folder: Path, thinker: Thinker) -> list[str]:
    unsure(thinker).save_pretrained(folder / "start")
    settings = {
        "start": str(folder / "start"), "iterations": 3, "prompts": 2, "samples": 3, "at_once": 3, "updates": 2,
        **LONG, "sampler": {"families": ["label"], "order": "prioritized"},
        "length": {"weight": 0.5, "warmup_iterations": 0},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return ["train", "pmd", "--config", str(folder / "run.yaml")]


def killed(arguments: list[str], out: Path, seen: Path) -> None:
    """Run the command until a file is there, or has grown, and then no longer."""
    before = seen.stat().st_size if seen.is_file() else 0
    process = subprocess.Popen([sys.executable, "-m", "foveate", *arguments, "--out", str(out), "--resume"])
    while process.poll() is None and not (seen.is_file() and seen.stat().st_size > before):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def preferring(folder: Path, thinker: Thinker) -> list[str]:
    unsure(thinker).save_pretrained(folder / "start")
    asked = {"role": "user", "content": "What is it?"}
    sides = [{"role": "assistant", "content": f"A {name}."} for name in ("cat", "dog", "zoom")]
    pairs = [{"prompt": [asked], "chosen": [one], "rejected": [two]} for one in sides for two in sides if one != two]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    settings = {
        "steps": 40, "log_every": 3, "num_workers": 0, "checkpoint_minutes": 0.0, "optimizer": {"warmup_steps": 2},
        "stage": {"start": str(folder / "start"), "data": str(folder / "pairs.jsonl"), "pairs_per_batch": 2},
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return ["train", "dpo", "--config", str(folder / "run.yaml")]


SAVES_HALF = """
import os, signal, sys
from foveate.rl import journal

saves, write = [], journal.save_file

def half(tensors, path, metadata):
    write(tensors, path, metadata=metadata)
    saves.append(path)
    if len(saves) == int(sys.argv[1]):
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

journal.save_file = half
from foveate.cli import main
sys.exit(main(sys.argv[2:]))
"""
"""A training that is killed in the middle of its Nth save."""


def killed_while_saving(arguments: list[str], out: Path, which: int) -> None:
    command = [sys.executable, "-c", SAVES_HALF, str(which), *arguments, "--out", str(out), "--resume"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (out / f"{CHECKPOINT}.new").is_file()


def killed_some_time(arguments: list[str], out: Path, most: float) -> None:
    """Run the command and kill it at a random moment after its first step, if it has not ended before."""
    process = subprocess.Popen([sys.executable, "-m", "foveate", *arguments, "--out", str(out), "--resume"])
    before = (out / CHECKPOINT).stat().st_mtime_ns
    while process.poll() is None and (out / CHECKPOINT).stat().st_mtime_ns == before:
        time.sleep(0.002)
    time.sleep(random.uniform(0, most))
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["dpo", "pmd"])
def test_a_run_that_is_killed_at_any_moment_goes_on(kind: str, thinker: Thinker, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    arguments = (preferring if kind == "dpo" else policy)(tmp_path, thinker)
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "cut"
    killed_while_saving(arguments, out, 1)
    killed_while_saving(arguments, out, 2)
    killed_some_time(arguments, out, 1.0)
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    assert rows(out) == rows(tmp_path / "whole")
    assert not list(out.glob("*.new"))
    for name in (CHECKPOINT, "model.safetensors"):
        wanted, got = load_file(tmp_path / "whole" / name), load_file(out / name)
        assert wanted.keys() == got.keys()
        assert all(torch.equal(tensor, wanted[key]) for key, tensor in got.items())
    assert any(row["grad_norm"] for row in rows(out)), "it did learn"
    assert torch.get_num_threads() == threads


@dataclass(frozen=True)
class OfThreads(Team):
    """One of two threads that agree as processes do."""

    size: int = 2
    met: Barrier = field(default_factory=lambda: Barrier(2, timeout=10))
    told: list[Any] = field(default_factory=lambda: [None, None])

    def _all(self, value: Any) -> list[Any]:
        self.told[self.rank] = value
        self.met.wait()
        every = list(self.told)
        self.met.wait()
        return every


def saved_by_two(out: Path, steps: tuple[int, int]) -> tuple[OfThreads, OfThreads]:
    """A team whose processes have saved at these steps."""
    first = OfThreads(rank=0)
    team = first, OfThreads(rank=1, met=first.met, told=first.told)
    out.mkdir()
    for one, step in zip(team, steps, strict=True):
        alone = OfThreads(rank=one.rank, met=Barrier(1))
        save_checkpoint(out, MasterOptimizer(nn.Linear(2, 2), OptimizerConfig()), Progress(step), alone)
    return team


def steps_of(out: Path, team: tuple[OfThreads, OfThreads]) -> list[int]:
    """The steps from which both go on."""

    def step_of(one: OfThreads) -> int:
        return resumed(out, MasterOptimizer(nn.Linear(2, 2), OptimizerConfig()), one).step

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(step_of, team))


def test_a_kill_between_the_renames_of_a_team_loses_nothing(tmp_path: Path) -> None:
    team = saved_by_two(tmp_path / "old", (2, 2))
    saved_by_two(tmp_path / "new", (4, 4))
    parts = [f"checkpoint-{rank}-of-2.safetensors" for rank in (1, 2)]
    (tmp_path / "new" / parts[0]).rename(tmp_path / "old" / f"{parts[0]}.new")
    (tmp_path / "new" / parts[1]).replace(tmp_path / "old" / parts[1])
    assert steps_of(tmp_path / "old", team) == [4, 4]
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == parts


def test_a_team_refuses_checkpoints_of_different_steps(tmp_path: Path) -> None:
    team = saved_by_two(tmp_path / "run", (2, 4))
    with pytest.raises(CheckpointError, match="are of different steps; start again without them"):
        steps_of(tmp_path / "run", team)


@pytest.mark.timeout(600)
def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    arguments = supervised(tmp_path)
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "cut"
    for seen in (out / CHECKPOINT, out / METRICS):
        killed(arguments, out, seen)
    assert 0 < len(rows(out)) < len(rows(tmp_path / "whole"))
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    assert rows(out) == rows(tmp_path / "whole")
    wanted = load_file(tmp_path / "whole" / CHECKPOINT)
    for name, tensor in load_file(out / CHECKPOINT).items():
        assert torch.equal(tensor, wanted[name]), name


@contextmanager
def started(folder: Path, *settings: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A training in a group of its own, with a process that draws, which writes to `folder`/out; ended at the end."""
    heeding = ["env", "--default-signal=HUP"]  # also under nohup
    command = [*heeding, sys.executable, "-m", "foveate", *supervised(folder), "--out", str(folder / "out")]
    command += [word for setting in ("num_workers=1", "log_every=1", *settings) for word in ("--set", setting)]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_loses_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path, "steps=100000", "checkpoint_minutes=100.0") as process:
        while process.poll() is None and not rows(tmp_path / "out"):
            time.sleep(0.02)
        os.killpg(process.pid, number)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "out" / CHECKPOINT).is_file()


def test_a_second_interrupt_ends_it_at_once_with_those_that_draw(tmp_path: Path) -> None:
    with started(tmp_path, "accumulate=1000000") as process:  # a step without end
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None and not children.read_text():
            time.sleep(0.02)
        (drawing,) = children.read_text().split()
        assert process.stderr is not None
        os.killpg(process.pid, signal.SIGINT)
        for line in process.stderr:  # two at once would be one
            if b"Ctrl-C again stops at once" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        deadline = time.monotonic() + 5  # it has ended or does so, and whoever adopted it has to notice
        while Path("/proc", drawing).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path("/proc", drawing).exists()
    assert process.returncode == 130
    assert b"foveate: interrupted" in said


def optimizer_of(size: int) -> MasterOptimizer:
    return MasterOptimizer(nn.Linear(size, size), OptimizerConfig())


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, optimizer_of(64), Progress(3, [{"loss": torch.tensor(0.5)}]))
    with full_disk(4096), pytest.raises(CheckpointError, match=r"checkpoint\.safetensors .*make room"):
        save_checkpoint(tmp_path, optimizer_of(64), Progress(4))
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    assert load_checkpoint(tmp_path, optimizer_of(64)) == Progress(3, [{"loss": 0.5}])


def test_what_is_no_checkpoint_of_this_run_is_refused(tmp_path: Path) -> None:
    class Gadget:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "run"),))

    (tmp_path / CHECKPOINT).write_bytes(pickle.dumps(Gadget()))
    with pytest.raises(CheckpointError, match="cannot go on from"):
        load_checkpoint(tmp_path, optimizer_of(4))
    assert not (tmp_path / "run").exists()
    save_checkpoint(tmp_path, optimizer_of(8), Progress(3))
    with pytest.raises(CheckpointError, match="wanted the checkpoint of a run of this model"):
        load_checkpoint(tmp_path, optimizer_of(4))
    assert load_checkpoint(tmp_path / "elsewhere", optimizer_of(4)) == Progress()


def test_rows_beyond_the_checkpoint_and_half_ones_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    assert keep_rows(path, "step", 0) == []
    path.write_text('{"step": 2, "loss": 0.25}\n{"step": 4}\n{"step": 2, "lo')
    assert keep_rows(path, "step", 2) == [{"step": 2, "loss": 0.25}]
    assert path.read_text() == '{"step": 2, "loss": 0.25}\n'
    with pytest.raises(CheckpointError, match="another kind of training: its rows have no 'iteration'"):
        keep_rows(path, "iteration", 2)


def test_a_kill_inside_a_character_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    path.write_bytes(b'{"step": 2}\n{"step": 4, "said": "\xc3')
    assert keep_rows(path, "step", 4) == [{"step": 2}]
    assert path.read_bytes() == b'{"step": 2}\n'


def test_only_a_line_feed_ends_a_row(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    path.write_text('{"step": 1, "said": "a\u2028b\x85c"}\n\n', encoding="utf-8")
    assert keep_rows(path, "step", 1) == [{"step": 1, "said": "a\u2028b\x85c"}]


def test_what_lies_there_is_not_written_over(tmp_path: Path) -> None:
    refuse_another(tmp_path, ALONE)
    save_checkpoint(tmp_path, optimizer_of(4), Progress(3))
    with pytest.raises(CheckpointError, match="holds a run already; go on with --resume"):
        refuse_another(tmp_path, ALONE)
    (tmp_path / CHECKPOINT).rename(tmp_path / "checkpoint-1-of-2.safetensors")
    with pytest.raises(CheckpointError, match="is not one of 1 processes"):
        resumed(tmp_path, optimizer_of(4), ALONE)


class Stumbling:
    """A stage whose loss is no number in every third step, in the first of them with a gradient that is one."""

    reads_blocks = False

    def __init__(self) -> None:
        self.module: nn.Module = nn.Linear(2, 1)
        self.config = None

    def batch(self, index: int) -> Tensor:
        return torch.full((1, 2), (math.inf if index == 2 else math.nan) if index % 3 == 2 else 1.0)

    def loss(self, batch: Tensor) -> tuple[Tensor, Metrics]:
        if batch.isinf().any():
            return self.module(torch.ones(1, 2)).sum() + math.nan, {}
        loss = self.module(batch).square().mean()
        return loss, {"seen": float(batch.sum())}

    def weight(self, batch: Tensor) -> float:
        return float(len(batch))

    def export(self, folder: Path) -> None:
        """Nothing."""


def test_steps_without_a_number_are_skipped_and_counted(tmp_path: Path) -> None:
    stage = Stumbling()
    assert train(stage, TrainConfig(steps=6, num_workers=0, log_every=6), tmp_path) == 6
    (row,) = rows(tmp_path)
    assert row["skipped"] == 2.0
    assert row["seen"] == 2.0
    assert all(torch.isfinite(parameter).all() for parameter in stage.module.parameters())


class Falling(Stumbling):
    """A stage whose gradient is no number in some of its steps."""

    def __init__(self, broken: set[int]) -> None:
        super().__init__()
        self.broken = broken

    def batch(self, index: int) -> Tensor:
        return torch.full((1, 2), math.nan if index in self.broken else 1.0)


def test_many_steps_in_a_row_without_a_number_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.rl.train.MOST_SKIPPED", 3)
    config = TrainConfig(steps=9, num_workers=0, log_every=9)
    assert train(Falling({1, 2, 4, 5, 7, 8}), config, tmp_path / "two") == 9
    with pytest.raises(ModelError, match="no gradient of the last 3 steps, up to 6, is a number; look at the weights"):
        train(Falling({1, 3, 4, 5}), config, tmp_path / "three")
