"""A policy is trained on its own rollouts, token for token, and what may not count does not.

Proved with the tiny thinker: rollouts run the agent's graph many at once and give what one at a time gives; their log-
probabilities are the trainer's; kernels of the pool forget, and one that dies costs one call; cut conversations and
groups of one leave the batch, what failed is told apart and a policy that always fails ends the run; accumulating over
batches equals one batch; steps without a number are skipped and equal groups change nothing; sampler and trainer are
compared before the first step; a run writes its metrics and a checkpoint that loads, and goes on after a stop; a wrong
key is named.
"""

import json
import math
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from needs import needs_bubblewrap
from pictures import noise
from played import BUDGET, LONG, jobs, unsure, whole
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foveate.cli import main
from foveate.errors import ConfigError, KernelLostError, ModelError
from foveate.models import Thinker
from foveate.models.branches import Branches
from foveate.models.transcript import pack
from foveate.rl import policy
from foveate.rl.journal import METRICS, add_row
from foveate.rl.learner import (
    Learner,
    Said,
    Sampled,
    batches,
    gradient,
    loss_of,
    rewarded,
    shares,
    size_of,
    with_signal,
)
from foveate.rl.length import LengthPenalty
from foveate.rl.logprobs import written_logprobs
from foveate.rl.page import write_page
from foveate.rl.players import Played
from foveate.rl.pmd import PmdConfig
from foveate.rl.policy import train_policy
from foveate.rl.policy_config import Objective, PolicyConfig
from foveate.rl.pooled import KernelPool, PooledPython
from foveate.rl.rollout import Trajectory, living, rollouts
from foveate.rl.sampler import SamplerConfig
from foveate.rl.stages import main as train
from foveate.rl.trainable import make_trainable
from foveate.tools import PythonTool
from foveate.tools.sandbox import Limits


@pytest.fixture(scope="module")
def played(thinker: Thinker) -> list[Trajectory]:
    with rollouts(thinker, at_once=4, budget=BUDGET) as playing:
        return list(playing.play(jobs(6)))


def test_rollouts_at_once_give_what_one_at_a_time_gives(thinker: Thinker, played: list[Trajectory]) -> None:
    with rollouts(thinker, at_once=1, budget=BUDGET) as playing:
        alone = list(playing.play(jobs(6)))
    for one, other in zip(played, alone, strict=True):
        assert torch.equal(one.transcript.token_ids, other.transcript.token_ids)
        assert (one.answer, one.status, one.tool_calls) == (other.answer, other.status, other.tool_calls)


def test_log_probabilities_are_the_trainers(thinker: Thinker, played: list[Trajectory]) -> None:
    for trajectory in played:
        assert len(trajectory.sampled_S) == int(trajectory.transcript.by_policy_T.sum()) > 0
        got = written_logprobs(thinker, trajectory.transcript)
        torch.testing.assert_close(got, trajectory.sampled_S, atol=1e-5, rtol=0)


@needs_bubblewrap
def test_kernels_of_the_pool_forget_and_are_used_again() -> None:
    pool = KernelPool()
    tool = PooledPython(pool, PythonTool(timeout_s=9.0, max_chars=4000, limits=Limits(open_files=99)))
    first = tool.for_run()
    assert (first.timeout_s, first.max_chars, first.limits) == (9.0, 4000, Limits(open_files=99))
    code = "import os; open('left', 'w').close(); os.mkdir('box'); os.chdir('box'); x = 7; print(x)"
    assert first.run_code([noise(9, 9)], code).text == "7"
    kernel = first._kernel
    first.close()
    second = tool.for_run()
    code = "import os; from PIL import Image; print(Image.open('image_0.png').size, 'x' in dir(), os.listdir())"
    found = second.run_code([noise(5, 4)], code)
    assert second._kernel is kernel
    assert found.text == "(5, 4) False ['image_0.png']"
    second.close()
    pool.close()
    assert kernel is not None
    assert not kernel.is_running


@needs_bubblewrap
def test_a_kernel_that_dies_in_a_cell_costs_one_conversation_a_call() -> None:
    pool = KernelPool()
    tool = PooledPython(pool)
    first, second = tool.for_run(), tool.for_run()
    with pytest.raises(KernelLostError):
        first.run_code([], "import os; os.kill(os.getpid(), 9)")
    first.close()
    assert second.run_code([], "print(6 * 7)").text == "42"
    second.close()
    pool.close()


def test_what_was_cut_and_who_is_alone_leave_the_batch(played: list[Trajectory]) -> None:
    config = PolicyConfig(start="", iterations=1)
    trajectories = whole(played)
    trajectories[0] = replace(trajectories[0], status="out_of_budget")
    kept = rewarded(trajectories[:4], "pmd", config, 0.0)
    assert [sample.trajectory.job.seed for sample in kept] == [1, 3]  # 0 was cut, and 2 is alone without it
    assert rewarded(whole(played)[:1], "pmd", config, 0.0) == []
    assert rewarded([], "grpo", config, 0.0) == []


def test_a_short_right_answer_earns_more_and_a_wrong_one_nothing_by_being_short(played: list[Trajectory]) -> None:
    config = PolicyConfig(start="", iterations=1)
    job = replace(played[0].job, group=0)
    said = {"right": job.item.answer, "wrong": "nothing of the kind"}
    lengths = (("right", 10), ("right", 20), ("wrong", 10), ("wrong", 30))
    group = [
        replace(played[0], job=job, status="answered", answer=said[kind], sampled_S=torch.zeros(count))
        for kind, count in lengths
    ]
    samples = rewarded(group, "pmd", config, 0.5)
    assert [sample.reward for sample in samples] == pytest.approx([1.25, 1.0, 0.0, -0.25])
    assert [sample.target for sample in samples] == pytest.approx([0.75, 0.5, -0.5, -0.75])
    assert [sample.reward for sample in rewarded(group, "pmd", config, 0.0)] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(("objective", "level"), [("pmd", "sequence"), ("pmd", "token"), ("grpo", ""), ("rloo", "")])
def test_many_batches_give_the_gradient_of_one(
    objective: Objective, level: str, thinker: Thinker, played: list[Trajectory]
) -> None:
    config = PolicyConfig(start="", iterations=1, pmd=PmdConfig(level="token" if level == "token" else "sequence"))
    samples = rewarded(whole(played), objective, config, 0.5)
    assert len(samples) == 6
    assert [len(batch) for batch in batches(samples, 1)] == [1] * 6
    longest = max(len(sample.trajectory.transcript) for sample in samples)
    together = pack([sample.trajectory.transcript for sample in samples])
    computed = sum(Branches.of(together).own)
    assert computed < len(together)
    assert [len(batch) for batch in batches(samples, max(longest, computed))] == [6]  # a beginning counts once
    thinker.requires_grad_(True)
    gradients = []
    for most in (1, 100_000):
        gradient(Said(thinker), samples, loss_of(objective, config), most, size=size_of(objective, config))
        gradients.append({name: p.grad.clone() for name, p in thinker.named_parameters() if p.grad is not None})
        thinker.zero_grad(set_to_none=True)
    thinker.requires_grad_(False)
    assert gradients[0].keys() == gradients[1].keys()
    size = max(float(grad.norm()) for grad in gradients[1].values())
    for name, grad in gradients[0].items():
        assert float((grad - gradients[1][name]).norm()) <= 1e-4 * size, name


def test_updates_see_whole_groups(played: list[Trajectory]) -> None:
    samples = [Sampled(trajectory=t, reward=0.0, target=0.0) for t in played]
    dealt = shares(samples, 3, [0, 1])
    assert [{s.trajectory.job.group for s in share} for share in dealt] == [{0}, {1}, set()]
    assert [{s.trajectory.job.group for s in share} for share in shares(samples, 2, [1, 0])] == [{1}, {0}]


def test_groups_that_say_nothing_are_left_out_and_count(thinker: Thinker, played: list[Trajectory]) -> None:
    samples = [Sampled(trajectory=t, reward=t.job.group * t.job.seed, target=float(t.job.group)) for t in played]
    assert {s.trajectory.job.group for s in with_signal(samples)} == {1}
    config = PolicyConfig(start="", iterations=1)
    thinker.requires_grad_(True)
    norms = []
    for some in (samples, with_signal(samples)):
        gradient(Said(thinker), some, loss_of("rloo", config), 100_000)
        norms.append(float(thinker.decoder.norm.weight.grad.norm()))
        thinker.zero_grad(set_to_none=True)
    thinker.requires_grad_(False)
    assert norms[1] == pytest.approx(norms[0] * len(samples) / len(with_signal(samples)), rel=1e-4)


def learner_of(thinker: Thinker, objective: Objective = "pmd") -> Learner:
    """One that learns in a copy of the thinker, all of an iteration in one step."""
    own = deepcopy(thinker)
    config = PolicyConfig(start="", iterations=1, updates=1)
    make_trainable(own, config.lora, tower=False)
    return Learner(objective, config, Said(own))


def unchanged(learner: Learner, thinker: Thinker) -> bool:
    before = dict(thinker.named_parameters())
    return all(p.equal(before[name.removeprefix("thinker.")]) for name, p in learner.said.named_parameters())


@pytest.mark.parametrize("objective", ["pmd", "grpo", "rloo"])
def test_steps_without_a_number_are_skipped_and_shown(
    objective: Objective, thinker: Thinker, played: list[Trajectory], tmp_path: Path
) -> None:
    learner, ended = learner_of(thinker, objective), whole(played)
    row = learner.learn(0, [replace(ended[0], sampled_S=ended[0].sampled_S * math.nan), *ended[1:]])
    assert row["skipped"] == 1.0
    assert not {"kl", "mismatch", "grad_norm"} & row.keys()
    assert unchanged(learner, thinker)
    for iteration in (1, 2):
        add_row(tmp_path, {**row, "iteration": iteration, "seconds": 1.0})
    for line in (tmp_path / METRICS).read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    page = write_page(tmp_path).read_text()
    assert "Skipped steps, whose gradient was no number: 2." in page
    assert "nan" not in page
    (tmp_path / METRICS).write_text('{"iteration": 1, "accuracy": 0.5, "kl": NaN, "seconds": 1.0}\n')  # of old
    page = write_page(tmp_path).read_text()
    assert page.count("<polyline") == 1
    assert "nan" not in page


def test_an_iteration_of_equal_groups_changes_nothing(thinker: Thinker, played: list[Trajectory]) -> None:
    learner = learner_of(thinker)
    row = learner.learn(0, [replace(one, answer="y") for one in whole(played)])
    assert (row["reward"], row["kl"], row["grad_norm"]) == (0.0, 0.0, 0.0)
    assert not {"mismatch", "skipped"} & row.keys()
    assert unchanged(learner, thinker)


def test_each_iteration_begins_without_moments(thinker: Thinker, played: list[Trajectory]) -> None:
    learner = learner_of(thinker)
    assert learner.learn(0, whole(played))["grad_norm"] > 0
    assert not [name for name in learner.optimizer.state_tensors() if name.startswith("exp_avg")]


class Stage:
    """Plays what was played, and notes what it was told."""

    def __init__(self, trajectories: list[Trajectory]) -> None:
        self.trajectories, self.told = trajectories, list[dict[str, float]]()

    def play(self, iteration: int, success: Mapping[str, float]) -> Played:
        self.told.append(dict(success))
        return Played(self.trajectories, None)

    def renew(self, thinker: Thinker) -> None:
        pass


def test_who_plays_knows_what_is_got_wrong_and_trackers_what_is_logged(
    thinker: Thinker, played: list[Trajectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the run goes on."""
    stage = Stage(whole(played))
    monkeypatch.setattr(policy, "players", lambda *_: nullcontext(stage))
    thinker.save_pretrained(tmp_path / "start")
    config = PolicyConfig(
        start=str(tmp_path / "start"), iterations=2, prompts=3, samples=2, length=LengthPenalty(weight=0.0),
        sampler=SamplerConfig(order="prioritized"), trackers=("tensorboard",),
    )  # fmt: skip
    train_policy("pmd", config, tmp_path / "out")
    train_policy("pmd", replace(config, iterations=3), tmp_path / "out", resume=True)
    rates = {"label": pytest.approx(1 / 3)}
    assert stage.told == [{}, rates, rates]
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "out" / METRICS).read_text().splitlines()]
    logged = {point.step: point.value for point in events.Scalars("policy_tokens")}
    assert logged == pytest.approx({row["iteration"]: row["policy_tokens"] for row in rows})
    assert list(logged) == [1, 2, 3]


def test_a_row_tells_families_apart(thinker: Thinker, played: list[Trajectory]) -> None:
    items = [replace(played[0].job.item, family=name) for name in ("label", "table")]
    ended = [
        replace(one, answer="y", sampled_S=torch.zeros(10 + idx), job=replace(one.job, item=items[idx % 2]))
        for idx, one in enumerate(whole(played))
    ]
    row = learner_of(thinker).learn(0, ended)
    assert (row["tokens_label"], row["tokens_table"], row["policy_tokens"]) == (12.0, 13.0, 12.5)


def test_who_played_nothing_has_a_row(thinker: Thinker) -> None:
    row = learner_of(thinker).learn(0, [])
    assert not {"accuracy", "reward", "policy_tokens"} & row.keys()
    assert row["grad_norm"] == 0.0


def test_who_learns_nothing_since_all_was_cut_says_so(
    thinker: Thinker, played: list[Trajectory], caplog: pytest.LogCaptureFixture
) -> None:
    cut = [replace(one, status="out_of_budget") for one in played]
    row = learner_of(thinker).learn(4, cut)
    assert (row["cut"], row["grad_norm"]) == (1.0, 0.0)
    assert "iteration 4 learns nothing: no question has two conversations that came to their own end" in caplog.text


def test_sampler_and_trainer_are_compared_before_the_first_step(thinker: Thinker, played: list[Trajectory]) -> None:
    ended = whole(played)
    row = learner_of(thinker).learn(0, ended)
    assert row["mismatch"] < 1e-5
    signs = [torch.ones(len(one.sampled_S)).cumsum(0) % 2 * 2 - 1 for one in ended]
    off = [replace(one, sampled_S=one.sampled_S + 0.01 * sign) for one, sign in zip(ended, signs, strict=True)]
    row = learner_of(thinker).learn(0, off)
    assert row["mismatch"] == pytest.approx(0.01, rel=1e-2)
    assert row["kl"] == pytest.approx(0.01**2 / 2, rel=2e-2)


@pytest.mark.parametrize("objective", ["pmd", "grpo", "rloo"])
def test_what_fails_is_told_from_what_is_cut(objective: Objective, thinker: Thinker, played: list[Trajectory]) -> None:
    some = whole(played)
    some[2] = replace(some[2], status="error", reason="the context is full")
    some[1] = replace(some[1], status="out_of_budget")
    row = learner_of(thinker, objective).learn(0, some)
    assert (row["failed"], row["cut"]) == (pytest.approx(1 / 6), pytest.approx(1 / 6))
    assert row["grad_norm"] > 0


def test_a_policy_that_cannot_speak_ends_the_run(thinker: Thinker, tmp_path: Path) -> None:
    broken = deepcopy(thinker)
    broken.decoder.norm.weight.fill_(math.nan)
    with rollouts(broken, at_once=2, budget=BUDGET) as playing:
        failed = list(playing.play(jobs(2)))
    assert all(one.has_failed for one in failed)
    with pytest.raises(ModelError, match=r"all 2 conversations of the iteration failed, the first one: .*not numbers"):
        learner_of(thinker).learn(0, failed)


def test_what_has_failed_waits_for_one_that_has_not(played: list[Trajectory]) -> None:
    failed, others = [replace(one, status="error", reason=one.answer) for one in whole(played)[:2]], whole(played)[2:]
    assert list(living([*failed, *others])) == [*failed, *others]
    assert list(living([*others, *failed])) == [*others, *failed]
    assert list(living([])) == []
    with pytest.raises(ModelError, match="all 2 conversations failed, the first one: x"):
        list(living(failed))


def test_a_run_learns_and_goes_on(thinker: Thinker, tmp_path: Path) -> None:
    unsure(thinker).save_pretrained(tmp_path / "start")
    settings = {
        "start": str(tmp_path / "start"), "iterations": 2, "prompts": 2, "samples": 4, "at_once": 4, "updates": 1,
        **LONG, "sampler": {"families": ["label"], "order": "prioritized"},
        "length": {"weight": 0.5, "warmup_iterations": 0},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    arguments = ["train", "pmd", "--config", str(tmp_path / "run.yaml"), "--out", str(out)]
    assert main([*arguments, "--max-minutes", "0"]) == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    assert main(arguments) == 2  # it would begin anew over what is there
    assert main([*arguments, "--resume", "--seed", "5"]) == 2  # another run
    assert main([*arguments, "--resume"]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert any(row["grad_norm"] for row in rows)
    assert {"accuracy", "accuracy_label", "reward", "policy_tokens", "kl", "seconds"} <= rows[0].keys()
    assert all(row["mismatch"] < 1e-2 for row in rows if "mismatch" in row)
    assert any("mismatch" in row for row in rows)
    assert Thinker.from_pretrained(out).config == thinker.config
    page = (out / "report.html").read_text()
    assert "2 iterations" in page
    assert page.count("<polyline") >= 6


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_the_baselines_are_commands_and_a_folder_is_asked(objective: str, thinker: Thinker, tmp_path: Path) -> None:
    thinker.save_pretrained(tmp_path / "start")
    noise(64, 48).save(tmp_path / "a.png")
    question = {"id": "a", "image": "a.png", "question": "What?", "answer": "x", "family": "own"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(question))
    settings = {
        "start": str(tmp_path / "start"), "iterations": 1, "prompts": 1, "samples": 2, "policy_tokens": 9,
        "tasks": str(tmp_path),
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    assert main(["train", objective, "--config", str(tmp_path / "run.yaml"), "--out", str(out)]) == 0
    (row,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert row["cut"] == 1.0
    assert "accuracy_own" in row


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("start: x\niterations: 1\npmd: {tua: 1.0}\n")
    with pytest.raises(ConfigError, match=r"pmd\.'tua'|tua"):
        train("pmd", tmp_path / "run.yaml", tmp_path / "out")
    (tmp_path / "run.yaml").write_text("start: x\niterations: 1\nsampler: {order: often}\n")
    with pytest.raises(ConfigError, match=r"sampler\.order is 'often', wanted one of uniform, prioritized"):
        train("pmd", tmp_path / "run.yaml", tmp_path / "out")
    for line, said in {
        "samples: 1": "samples is 1, wanted at least 2",
        "updates: 0": "updates is 0, wanted at least 1",
        "partial: 1.0": "partial is 1.0, wanted a share",
        "sampler: {families: []}": r"sampler\.families is \(\), wanted at least one family",
        "sampler: {families: [tabel]}": "families names tabel, wanted some of label",
        "lora:": "lora is None, wanted a mapping",
        "trackers: tensorboard": "trackers is 'tensorboard', wanted a list",
        "samples: [": "is no YAML",
        "tasks: 2025-13-01": "is no YAML: month must be in 1..12",
    }.items():
        (tmp_path / "run.yaml").write_text(f"start: x\niterations: 1\n{line}\n")
        with pytest.raises(ConfigError, match=said):
            train("pmd", tmp_path / "run.yaml", tmp_path / "out")
    with pytest.raises(ConfigError, match="max_minutes is nan, wanted 0 or more"):
        train("pmd", tmp_path / "run.yaml", tmp_path / "out", max_minutes=math.nan)
    (tmp_path / "run.yaml").write_text("start: x\n")
    with pytest.raises(ConfigError, match="the key 'iterations' is missing"):
        train("pmd", tmp_path / "run.yaml", tmp_path / "out")
