"""A run that was killed goes on as if it had not been, and what cannot be gone on from is refused.

Proved with real kills (SIGKILL as soon as a row or a checkpoint is there) of a supervised run and of a policy's: rows
and weights at the end equal, bit by bit, those of a run that nobody killed. A full disk leaves the old checkpoint and
says so; pickles, other models' checkpoints and half-written rows do no harm; steps without a number are counted.
"""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from played import LONG, unsure
from safetensors.torch import load_file
from torch import Tensor, nn

from foveate.cli import main
from foveate.errors import CheckpointError
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
from foveate.rl.team import ALONE
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


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sft", "pmd"])
def test_a_killed_run_ends_like_one_that_was_not(kind: str, thinker: Thinker, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    arguments = supervised(tmp_path) if kind == "sft" else policy(tmp_path, thinker)
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
    assert torch.get_num_threads() == threads
    if kind == "pmd":
        assert any(row["grad_norm"] for row in rows(out))  # it did learn


def started(folder: Path, *settings: str) -> "subprocess.Popen[bytes]":
    """A training in a group of its own, with a process that draws, which writes to `folder`/out."""
    command = [sys.executable, "-m", "foveate", *supervised(folder), "--out", str(folder / "out")]
    command += [word for setting in ("num_workers=1", "log_every=1", *settings) for word in ("--set", setting)]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_loses_nothing(number: signal.Signals, tmp_path: Path) -> None:
    process = started(tmp_path, "steps=100000", "checkpoint_minutes=100.0")
    while process.poll() is None and not rows(tmp_path / "out"):
        time.sleep(0.02)
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "out" / CHECKPOINT).is_file()


def test_a_second_interrupt_ends_it_at_once_with_those_that_draw(tmp_path: Path) -> None:
    process = started(tmp_path, "accumulate=1000000")  # a step without end
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not children.read_text():
        time.sleep(0.02)
    (drawing,) = children.read_text().split()
    for _ in range(2):
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Ctrl-C again stops at once" in said
    assert b"foveate: interrupted" in said
    assert not Path("/proc", drawing).exists()


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may become longer than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


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
    with pytest.raises(CheckpointError, match="wanted the checkpoint of a run with these settings"):
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
    """A stage whose loss is no number in every third step."""

    def __init__(self) -> None:
        self.module: nn.Module = nn.Linear(2, 1)

    def batch(self, index: int) -> Tensor:
        return torch.full((1, 2), float("nan") if index % 3 == 2 else 1.0)

    def loss(self, batch: Tensor) -> tuple[Tensor, Metrics]:
        loss = self.module(batch).square().mean()
        return loss, {"seen": float(batch.sum())}

    def export(self, folder: Path) -> None:
        """Nothing."""


def test_steps_without_a_number_are_skipped_and_counted(tmp_path: Path) -> None:
    stage = Stumbling()
    assert train(stage, TrainConfig(steps=6, num_workers=0, log_every=6), tmp_path) == 6
    (row,) = rows(tmp_path)
    assert row["skipped"] == 2.0
    assert row["seen"] == 2.0
    assert all(torch.isfinite(parameter).all() for parameter in stage.module.parameters())
