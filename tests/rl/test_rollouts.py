"""`foveate rollout` writes what it says, and goes on where a kill ended it.

Proved with the tiny thinker on drawn questions and those of a folder: the command's file and line; a run that SIGKILL
ended leaves whole conversations, refuses to be gone on with by another run, and ends with every question that was to be
asked.
"""

import json
import math
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import noise

from foveate.cli import main
from foveate.errors import InputError
from foveate.models import Thinker
from foveate.rl import rollouts as command
from foveate.rl import trainable
from foveate.rl.players import jobs_of
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.sampler import SamplerConfig
from foveate.rl.trajectory import read_trajectories


def test_rollout_writes_and_says_what_came(
    thinker: Thinker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thinker.save_pretrained(tmp_path / "model")
    out = tmp_path / "some.jsonl"
    arguments = ["rollout", "--model", str(tmp_path / "model"), "--prompts", "2", "--samples", "1", "--at-once", "2"]
    assert main([*arguments, "--tasks", "label", "--temperature", "0.7", "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("2 conversations, ")
    read = list(read_trajectories(out))
    assert [one.family for one in read] == ["label", "label"]
    assert [one.run["settings"]["model"] for one in read] == [str(tmp_path / "model")] * 2
    assert [one.run["settings"]["temperature"] for one in read] == [0.7] * 2
    assert main([*arguments, "--tasks", "chess", "--out", str(out)]) == 2
    assert "chess" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "some.txt")]) == 2
    for option, said in {"--at-once": "at_once is 0, wanted at least 1", "--samples": "samples is 0, wanted"}.items():
        assert main([*arguments, option, "0", "--out", str(tmp_path / "other.jsonl")]) == 2
        assert said in capsys.readouterr().err
    assert main([*arguments, "--temperature", "-1", "--out", str(tmp_path / "other.jsonl")]) == 2


def test_no_tasks_are_refused() -> None:
    with pytest.raises(InputError, match="got the tasks '', wanted all, some of label, table"):
        command._tasks_of("")


def test_rollout_asks_the_questions_of_a_folder(
    thinker: Thinker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thinker.save_pretrained(tmp_path / "model")
    noise(64, 48).save(tmp_path / "a.png")
    question = {"id": "a", "image": "a.png", "question": "What?", "answer": "1/2", "type": "number", "family": "own"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(question))
    arguments = ["rollout", "--model", str(tmp_path / "model"), "--tasks", str(tmp_path), "--prompts", "1"]
    out = tmp_path / "some.jsonl"
    assert main([*arguments, "--samples", "1", "--out", str(out)]) == 0
    (saved,) = read_trajectories(out)
    assert (saved.id, saved.family, saved.expected, saved.kind) == ("a", "own", "1/2", "number")
    capsys.readouterr()
    (tmp_path / "answers.jsonl").write_text(json.dumps({**question, "answer": "0.25"}))
    assert main([*arguments, "--samples", "1", "--out", str(out), "--resume"]) == 2
    assert "which has another model or other settings" in capsys.readouterr().err


def test_a_model_that_always_fails_is_told_and_leaves_no_line(
    thinker: Thinker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = deepcopy(thinker)
    broken.decoder.norm.weight.fill_(math.nan)
    broken.save_pretrained(tmp_path / "model")
    arguments = ["rollout", "--model", str(tmp_path / "model"), "--tasks", "label", "--prompts", "1", "--samples", "2"]
    assert main([*arguments, "--out", str(tmp_path / "some.jsonl")]) == 2
    assert "all 2 conversations failed, the first one: the model's logits are not numbers" in capsys.readouterr().err
    assert (tmp_path / "some.jsonl").read_bytes() == b""


def test_a_rollout_computes_in_what_the_processor_multiplies(
    thinker: Thinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thinker.save_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    play, dtypes = command.rollouts, list[torch.dtype]()

    def watched(thinker: Thinker, **settings: Any) -> Any:
        dtypes.append(thinker.decoder.embed.weight.dtype)
        return play(thinker, **settings)

    monkeypatch.setattr(trainable, "compute_dtype", lambda _: torch.float32)
    monkeypatch.setattr(command, "rollouts", watched)
    asked = command.asked_of(tmp_path / "model", "label", prompts=1, samples=1)
    command.roll_out(asked, tmp_path / "some.jsonl")
    assert dtypes == [torch.float32]


@pytest.mark.timeout(300)
def test_a_killed_run_is_gone_on_with(thinker: Thinker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thinker.save_pretrained(tmp_path / "model")
    arguments = ["rollout", "--model", str(tmp_path / "model"), "--tasks", "label", "--samples", "3", "--at-once", "2"]
    out = tmp_path / "some.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "foveate", *arguments, "--prompts", "3", "--out", str(out)])
    while process.poll() is None and not (out.is_file() and out.read_bytes().count(b"\n") > 1):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = [(one.id, one.seed, one.messages) for one in read_trajectories(out)]
    assert 1 < len(kept) < 9
    assert main([*arguments, "--prompts", "3", "--out", str(out)]) == 2
    assert f"holds {len(kept)} conversations; go on with --resume" in capsys.readouterr().err
    assert main([*arguments, "--prompts", "4", "--out", str(out), "--resume"]) == 2
    assert "which has another model or other settings" in capsys.readouterr().err
    assert main([*arguments, "--prompts", "3", "--out", str(out), "--resume"]) == 0
    assert capsys.readouterr().out.startswith("9 conversations, ")
    ended = [(one.id, one.seed, one.messages) for one in read_trajectories(out)]
    assert ended[: len(kept)] == kept
    sampler = SamplerConfig(families=("label",))
    config = PolicyConfig(start=str(tmp_path / "model"), iterations=1, prompts=3, samples=3, sampler=sampler)
    assert [one[:2] for one in ended] == [(job.item.id, job.seed) for job in jobs_of(config, 0, {})]
