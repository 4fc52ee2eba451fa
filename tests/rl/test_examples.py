"""A training shows what it answers before and after: the same questions, on its page and as traces.

Proved with the tiny thinker: a run that goes on keeps what was answered before it, and is the run that it is without
them; each kind of training is asked what it is about, the tower nothing; what a model says cannot act on the page.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pictures import noise
from played import BUDGET, LONG, jobs, unsure, whole

from foveate.cli import main
from foveate.models import Thinker
from foveate.rl.examples import Examples, examples_of, read_results
from foveate.rl.imitation import ImitationConfig
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.preference import PreferenceConfig
from foveate.rl.rollout import rollouts
from foveate.rl.sampler import SamplerConfig
from foveate.rl.sft import SftConfig
from foveate.rl.suite import Item
from foveate.rl.tower import TowerConfig
from foveate.rl.trajectory import write_trajectories


def test_the_page_of_a_run_has_both_and_the_run_is_the_same(thinker: Thinker, tmp_path: Path) -> None:
    unsure(thinker).save_pretrained(tmp_path / "start")
    noise(64, 48).save(tmp_path / "a.png")
    asked = {"id": "a", "image": "a.png", "question": "What is <b>it</b>?", "answer": "x", "family": "own"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(asked))
    settings: dict[str, Any] = {
        "start": str(tmp_path / "start"), "iterations": 2, "prompts": 1, "samples": 8, **LONG, "updates": 1,
        "tasks": str(tmp_path), "examples": 3, "length": {"warmup_iterations": 0},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    command = ["train", "pmd", "--config", str(tmp_path / "run.yaml"), "--out"]
    out = tmp_path / "out"
    assert main([*command, str(out), "--max-minutes", "0"]) == 0
    before = (out / "traces" / "1-before" / "result.json").stat().st_mtime_ns
    assert main([*command, str(out), "--resume"]) == 0
    assert (out / "traces" / "1-before" / "result.json").stat().st_mtime_ns == before
    (sides,) = read_results(out)
    assert [(when, result.expected, trace) for when, result, trace in sides] == [
        ("before", "x", "traces/1-before/trace.html"), ("after", "x", "traces/1-after/trace.html")
    ]  # fmt: skip
    page = (out / "report.html").read_text()
    assert page.count('<a href="traces/1-') == 2
    assert "<b>it" not in page
    assert all("What is &lt;b&gt;it" in (out / trace).read_text() for _, _, trace in sides)
    assert main([*command, str(tmp_path / "without"), "--set", "examples=0"]) == 0
    assert any(json.loads(line)["grad_norm"] for line in (out / "metrics.jsonl").read_text().splitlines())
    weights = [(folder / "checkpoint.safetensors").read_bytes()[-4096:] for folder in (out, tmp_path / "without")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "without" / "traces").exists()


def test_each_training_is_asked_what_it_is_about(thinker: Thinker, tmp_path: Path) -> None:
    with rollouts(thinker, at_once=4, budget=BUDGET, keeps_messages=True) as playing:
        write_trajectories(tmp_path / "some.jsonl", whole(list(playing.play(jobs(5)))))
    (tmp_path / "trl.jsonl").write_text(json.dumps({"prompt": "What?", "chosen": "a", "rejected": "b"}))
    data = str(tmp_path / "some.jsonl")
    for config in (PreferenceConfig(start="", data=data), ImitationConfig(start="", data=data)):
        items = examples_of(config, 3, tmp_path).items
        assert [(item.question, item.answer) for item in items] == [("What is it?", "x")] * 2
        pictures = [item.picture for item in items]
        assert pictures == [noise(100 + 30 * idx, 80, idx).convert("RGB") for idx in (0, 1)]
    assert examples_of(PreferenceConfig(start="", data=str(tmp_path / "trl.jsonl")), 3, tmp_path).items == []
    assert examples_of(TowerConfig(), 3, tmp_path).items == []
    policy = PolicyConfig(start="", iterations=1, sampler=SamplerConfig(families=("label", "fact")))
    assert [item.family for item in examples_of(policy, 3, tmp_path).items] == ["label", "fact", "label"]
    assert [item.family for item in examples_of(SftConfig(families=("table",)), 1, tmp_path).items] == ["table"]
    assert examples_of(policy, 0, tmp_path).items == []


@pytest.mark.parametrize("start", ["", "tower.safetensors"])
def test_random_weights_and_a_tower_answer_nothing_before(start: str, tmp_path: Path) -> None:
    (tmp_path / "tower.safetensors").touch()
    item = Item(id="a", family="own", question="What?", answer="x", picture=noise(20, 20))
    Examples(out=tmp_path, items=[item], budget=BUDGET).ask("before", start and str(tmp_path / start))
    assert read_results(tmp_path) == []


def test_of_a_team_the_first_one_asks(thinker: Thinker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And numbers drawn anywhere else stay what they would have been."""
    thinker.save_pretrained(tmp_path / "start")
    item = Item(id="a", family="own", question="What?", answer="x", picture=noise(20, 20))
    examples = Examples(out=tmp_path, items=[item], budget=BUDGET)
    monkeypatch.setenv("RANK", "1")
    examples.ask("after", tmp_path / "start")
    assert read_results(tmp_path) == []
    monkeypatch.setenv("RANK", "0")
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    examples.ask("after", tmp_path / "start")
    assert torch.equal(torch.rand(4), wanted)
    assert [when for sides in read_results(tmp_path) for when, _, _ in sides] == ["after"]
