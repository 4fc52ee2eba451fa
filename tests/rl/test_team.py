"""Two processes that torchrun starts learn what one learns from the same batches, each with a part of the weights.

Proved with real gloo processes and the tiny thinker, in f32: a supervised run of two equals one that accumulates two
batches, also when it is cut and resumed by a team; an iteration of PMD over two equals one over all questions; each
process's checkpoint holds a part, what is exported is whole; a kill between two renames loses nothing; a team refuses
checkpoints of different steps; its processes leave without the interpreter's own end, a process that is alone stays.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from played import LONG, unsure
from safetensors.torch import load_file, save_file

from foveate.cli import main
from foveate.models import Thinker
from foveate.models.config import TINY
from foveate.models.tokenizer import make_tokenizer


def together(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run([*command, "-m", "foveate", *arguments], capture_output=True, text=True, check=False)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_weights(one: Path, other: Path, atol: float) -> None:
    wanted = load_file(one / "model.safetensors")
    for name, tensor in load_file(other / "model.safetensors").items():
        torch.testing.assert_close(tensor, wanted[name], atol=atol, rtol=0, msg=name)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_tokenizer(["zoom", "image", "box"], TINY.decoder.vocab_size).save(str(tmp_path / "tokenizer.json"))
    settings = {
        "steps": 4, "log_every": 2, "num_workers": 0, "optimizer": {"warmup_steps": 2},
        "stage": {"preset": "tiny", "tokenizer": str(tmp_path / "tokenizer.json"), "tokens_per_batch": 150,
                  "max_questions": 1, "families": ["label"], "dense_coef": 0.5},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


@pytest.mark.timeout(600)
def test_two_learn_what_one_learns_from_both_batches(run: Path) -> None:
    start = ["train", "sft", "--config", str(run / "run.yaml"), "--out"]
    assert main([*start, str(run / "one"), "--set", "accumulate=2"]) == 0
    done = together(*start, str(run / "two"), "--max-minutes", "0")
    assert done.returncode == 0, done.stderr
    assert rows(run / "two") == []  # it was told to stop after a step
    done = together(*start, str(run / "two"), "--resume")
    assert done.returncode == 0, done.stderr
    same_weights(run / "one", run / "two", 1e-2)
    for one, two in zip(rows(run / "one"), rows(run / "two"), strict=True):
        assert two["step"] == one["step"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-2)
    parts = [run / "two" / f"checkpoint-{rank}-of-2.safetensors" for rank in (1, 2)]
    whole, halves = load_file(run / "one" / "checkpoint.safetensors"), [load_file(part) for part in parts]
    for name, tensor in whole.items():
        both = [half[name] for half in halves]
        assert both[0].dim() == 0 or sum(map(len, both)) == len(tensor), name
    parts[0].rename(f"{parts[0]}.new")
    save_file(halves[0], parts[0], metadata={"step": "2"})  # as if a kill had struck between the two renames
    done = together(*start, str(run / "two"), "--resume")
    assert done.returncode == 0, done.stderr
    assert not Path(f"{parts[0]}.new").exists()
    same_weights(run / "one", run / "two", 1e-2)
    save_file(halves[0], parts[0], metadata={"step": "2"})
    done = together(*start, str(run / "two"), "--resume")
    assert done.returncode != 0
    assert "are of different steps" in done.stderr


@pytest.mark.parametrize(("launched", "printed"), [({"TORCHELASTIC_RUN_ID": "1"}, "told\n"), ({}, "told\nstays\n")])
def test_what_torchrun_started_leaves_at_once(launched: dict[str, str], printed: str) -> None:
    program = "import atexit, foveate.rl.team as team; atexit.register(print, 'stays'); print('told'); team.leave()"
    environment = {key: value for key, value in os.environ.items() if key != "TORCHELASTIC_RUN_ID"} | launched
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == printed


@pytest.mark.timeout(600)
def test_two_play_and_learn_what_one_does(thinker: Thinker, tmp_path: Path) -> None:
    unsure(thinker).save_pretrained(tmp_path / "start")
    settings = {
        "start": str(tmp_path / "start"), "iterations": 2, "prompts": 4, "samples": 3, "at_once": 3, "updates": 1,
        **LONG, "sampler": {"families": ["label"]}, "optimizer": {"lr": 0.001, "muon": False, "warmup_steps": 0},
        "length": {"weight": 0.5, "warmup_iterations": 0}, "tokens_per_batch": 300,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    start = ["train", "pmd", "--config", str(tmp_path / "run.yaml"), "--out"]
    assert main([*start, str(tmp_path / "one")]) == 0
    done = together(*start, str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "one")[0]["grad_norm"] > 0
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for key in ("accuracy", "reward", "policy_tokens", "cut", "kl"):
            assert two[key] == pytest.approx(one[key], abs=0.1), key
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=0.1)
    assert Thinker.from_pretrained(tmp_path / "two").config == thinker.config
