"""A file of trajectories holds what was sampled; what had ended when its writer was killed is read and gone on with.

Proved with the tiny thinker: a file read back lays out the transcript that was sampled, with its log-probabilities and
all that a reward is made of; what a kill leaves (half a line, log-probabilities without a line, over several parts)
changes nothing of what had ended; lines of two runs are neither written nor read together; a broken file is named with
its line, an old one with its version.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from disk import full_disk
from played import BUDGET, jobs, whole

from foveate.errors import CheckpointError, InputError
from foveate.models import Thinker
from foveate.rl import trajectory as module
from foveate.rl.reward import is_right
from foveate.rl.rollout import Trajectory, rollouts
from foveate.rl.trajectory import count_trajectories, read_trajectories, write_trajectories


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


def test_a_line_has_what_a_reward_is_made_of(played: list[Trajectory], tmp_path: Path) -> None:
    seen = replace(whole(played)[0], saw_evidence=True, errors=2)
    item = replace(seen.job.item, accept=("X!", "ex"), evidence=((1.0, 2.0, 3.5, 4.0),), kind="choice")
    seen = replace(seen, job=replace(seen.job, item=item))
    write_trajectories(tmp_path / "some.jsonl", [seen])
    (saved,) = read_trajectories(tmp_path / "some.jsonl")
    assert (saved.reward, saved.right, saved.saw_evidence, saved.errors, saved.seed) == (1.0, True, True, 2, 0)
    assert (saved.accept, saved.evidence, saved.kind) == (item.accept, item.evidence, "choice")
    assert is_right(saved.answer, saved.expected, saved.accept, saved.kind)
    assert saved.is_whole
    assert saved.run["steps"][0]["kind"] == "think"
    assert all(image["sha256"] in saved.pictures for image in saved.run["images"])


def breaking_off(trajectories: list[Trajectory], after: int) -> Iterator[Trajectory]:
    yield from trajectories[:after]
    raise KeyboardInterrupt


def texts(path: Path) -> list[list[dict[str, Any]]]:
    return [list(saved.messages) for saved in read_trajectories(path)]


@pytest.mark.parametrize("half", ["", '{"schema_version": 2, "id": "é'], ids=["whole lines", "half a line"])
def test_what_had_ended_is_read_and_gone_on_with(
    half: str, played: list[Trajectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART", 2)
    path = tmp_path / "some.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write_trajectories(path, breaking_off(played, 3), source="one")
    with path.open("ab") as file:
        file.write(half.encode()[:-1])  # in the middle of a character
    assert [len(saved.sampled_S) for saved in read_trajectories(path)] == [len(one.sampled_S) for one in played[:3]]
    held = count_trajectories(path, "one")
    assert held == 3
    assert write_trajectories(path, played[held:], source="one", resume=True) == 3
    write_trajectories(tmp_path / "whole.jsonl", played, source="one")
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    for saved, trajectory in zip(read_trajectories(path), played, strict=True):
        assert torch.equal(saved.sampled_S, trajectory.sampled_S)


def test_two_runs_are_never_mixed(played: list[Trajectory], tmp_path: Path) -> None:
    path, other = tmp_path / "some.jsonl", tmp_path / "other.jsonl"
    write_trajectories(path, played[:2], source="one")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"holds 2 conversations; go on with --resume"):
        write_trajectories(path, played, source="one")
    with pytest.raises(InputError, match=r"jsonl:1 is of run 'one', wanted 'two'"):
        write_trajectories(path, played, source="two", resume=True)
    assert path.read_bytes() == before
    write_trajectories(other, played[2:4], source="two")
    path.write_bytes(before + other.read_bytes().splitlines(keepends=True)[0])
    module.Logprobs(path)[2] = played[2].sampled_S
    with pytest.raises(InputError, match=r"jsonl:3 is of run 'two', those before it of 'one'"):
        list(read_trajectories(path))


def test_one_process_writes_at_a_time(played: list[Trajectory], tmp_path: Path) -> None:
    def written_twice() -> Iterator[Trajectory]:
        yield played[0]
        write_trajectories(tmp_path / "some.jsonl", played[1:], resume=True)

    with pytest.raises(InputError, match="being written by another process"):
        write_trajectories(tmp_path / "some.jsonl", written_twice())
    assert len(texts(tmp_path / "some.jsonl")) == 1


def test_a_broken_file_is_named_with_its_line(played: list[Trajectory], tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    with pytest.raises(InputError, match=r"some\.jsonl"):
        list(read_trajectories(path))
    write_trajectories(path, played[:2])
    good = path.read_text().splitlines()
    old = {key: value for key, value in json.loads(good[1]).items() if key != "run"} | {"schema_version": 1}
    for line, message in (
        ("{", r"jsonl:2 is no trajectory"),
        (json.dumps(json.loads(good[1]) | {"kinds": 3}), r"jsonl:2 is no trajectory"),
        (json.dumps(old), "schema_version 1, wanted 2; write it anew"),
    ):
        path.write_text(f"{good[0]}\n{line}\n")
        with pytest.raises(InputError, match=message):
            list(read_trajectories(path))
    path.write_text(f"{good[0]}\n{good[1]}\n{good[1]}\n")
    with pytest.raises(InputError, match=r"jsonl:3 is no trajectory \(KeyError\('2'\)\)"):
        list(read_trajectories(path))
    (tmp_path / "some.logprobs" / "00000.safetensors").write_bytes(b"{")
    for touched in (lambda: list(read_trajectories(path)), lambda: write_trajectories(path, played, resume=True)):
        with pytest.raises(InputError, match=r"cannot read .*00000\.safetensors"):
            touched()


def test_a_file_that_cannot_be_written_is_refused(played: list[Trajectory], tmp_path: Path) -> None:
    (tmp_path / "some.logprobs").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write into"):
        write_trajectories(tmp_path / "some.jsonl", played)
    with pytest.raises(InputError, match="cannot write"):
        write_trajectories(tmp_path, played)


def test_a_full_disk_leaves_what_was_there(played: list[Trajectory], tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    write_trajectories(path, played[:2])
    before = path.read_bytes()
    with full_disk(len(before) + 100), pytest.raises(CheckpointError, match="make room, then go on with --resume"):
        write_trajectories(path, played[2:], resume=True)
    assert path.read_bytes() == before
    assert write_trajectories(path, played[2:], resume=True) == 4
    assert len(list(read_trajectories(path))) == 6
