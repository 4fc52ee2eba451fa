"""A policy can be trained on a folder of one's own questions.

Proved with a tiny folder and the tiny thinker: every question comes once, then every one again, whoever asks and
however often the run was begun; families come by what is got wrong; an answer is right as its row says; an iteration
learns from such questions and knows their families; a broken picture costs its own conversations; a drawn question is
what it always was.
"""

import json
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pictures import noise
from played import BUDGET

from foveate.errors import ConfigError, InputError
from foveate.models import Thinker
from foveate.rl.learner import Learner, Said
from foveate.rl.players import jobs_of, players
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.questions import questions_of
from foveate.rl.rollout import Trajectory, rollouts
from foveate.rl.sampler import SamplerConfig
from foveate.rl.suite import drawn_item
from foveate.rl.team import ALONE, Team
from foveate.rl.trainable import make_trainable

ROWS = (
    {"id": "half", "answer": "0.5", "type": "number", "family": "count"},
    {"id": "cat", "answer": "b", "type": "choice", "family": "kind"},
    {"id": "both", "answer": "oil; salt", "type": "set", "family": "kind"},
    {"id": "word", "answer": "Stop", "family": "kind", "evidence_bbox": [3, 4, 20, 30]},
    {"id": "five", "answer": "5", "type": "number", "family": "count"},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for idx, row in enumerate(ROWS):
        noise(64, 48, idx).save(tmp_path / f"{row['id']}.png")
    lines = [json.dumps({"question": "What?", "image": f"{row['id']}.png", **row}) for row in ROWS]
    (tmp_path / "answers.jsonl").write_text("\n".join(lines))
    return tmp_path


def asking(folder: Path, **settings: Any) -> PolicyConfig:
    return PolicyConfig(**{"start": "", "iterations": 9, "tasks": str(folder), "prompts": 3, "samples": 2} | settings)


def asked(config: PolicyConfig, iteration: int, team: Team = ALONE, **success: float) -> list[str]:
    return [job.item.id for job in jobs_of(config, iteration, success, team)][:: config.samples]


def test_every_question_comes_once_then_every_one_again(folder: Path) -> None:
    config = asking(folder)
    names = [name for iteration in range(5) for name in asked(config, iteration)]
    times = [names[start : start + 5] for start in (0, 5, 10)]
    assert [Counter(time) for time in times] == [Counter(row["id"] for row in ROWS)] * 3
    assert len({tuple(time) for time in times}) > 1
    assert asked(replace(config, seed=1), 0) + asked(replace(config, seed=1), 1) != names[:6]
    assert asked(config, 1, Team(0, 2)) + asked(config, 1, Team(1, 2)) == [names[3], names[5], names[4]]


def test_families_come_by_what_is_got_wrong(folder: Path) -> None:
    config = asking(folder, prompts=5, sampler=SamplerConfig(order="prioritized"))
    for iteration in range(4):
        names = asked(config, iteration, count=11 / 18, kind=7 / 18)
        assert Counter(name in ("half", "five") for name in names) == {True: 2, False: 3}
    assert Counter(names) == Counter(row["id"] for row in ROWS)


def test_questions_without_a_folder_are_drawn_as_ever() -> None:
    config = PolicyConfig(start="", iterations=1, prompts=1, samples=1, sampler=SamplerConfig(families=("label",)))
    (job,) = jobs_of(config, 0, {})
    assert (job.item.id, job.seed) == ("label-1058043772482", 836855002)
    assert job.item == drawn_item("label", 1_058_043_772_482, "train", "0")


def test_what_a_run_cannot_ask_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"sampler\.families is \('label',\) and tasks .*; wanted one or the other"):
        asking(folder, sampler=SamplerConfig(families=("label",)))
    with pytest.raises(InputError, match=r"answers\.jsonl cannot be read"):
        questions_of(asking(folder / "nowhere"))


def answering(played: list[Trajectory], answers: dict[str, str]) -> list[Trajectory]:
    """The same, ended; every second one with the answer given."""
    said = [answers[one.job.item.id] if idx % 2 else "?" for idx, one in enumerate(played)]
    return [replace(one, answer=answer, status="answered") for one, answer in zip(played, said, strict=True)]


def test_an_iteration_learns_from_them(thinker: Thinker, folder: Path) -> None:
    config = asking(folder, prompts=5, at_once=5, updates=1, turns=1, policy_tokens=8)
    with players(config, thinker, ALONE) as stage:
        played, see, _ = stage.play(0, {})
    said = answering(played, {"half": "1/2", "cat": "(B) a cat", "both": "salt, oil", "word": "stop.", "five": "5.0"})
    assert [one.right for one in said] == [False, True] * 5
    learning = deepcopy(thinker)
    make_trainable(learning, config.lora, tower=False)
    row = Learner("pmd", config, Said(learning)).learn(0, said, see)
    assert row["grad_norm"] > 0
    assert (row["accuracy"], row["accuracy_count"], row["accuracy_kind"]) == (0.5, 0.5, 0.5)


def test_a_broken_picture_costs_its_conversations(thinker: Thinker, folder: Path) -> None:
    data = (folder / "cat.png").read_bytes()
    (folder / "cat.png").write_bytes(data[: len(data) // 2])
    with rollouts(thinker, at_once=2, budget=BUDGET) as playing:
        played = list(playing.play(jobs_of(asking(folder, prompts=5, samples=1), 0, {})))
    (failed,) = (one for one in played if one.has_failed)
    assert failed.job.item.id == "cat"
    assert failed.reason
    assert not failed.is_whole
