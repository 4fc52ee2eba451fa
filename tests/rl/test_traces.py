"""Conversations of a rollout are pages to look at: the run that was, from the file alone.

Proved with nano, whose conversations have crops, and with what a file may hold that is hostile: the answer that comes
back is the one that was given, each page has as many pictures as the run, the index names every line and runs nothing.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from foveate.cli import main
from foveate.errors import InputError
from foveate.models import Thinker
from foveate.rl.players import jobs_of
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.rollout import Trajectory, rollouts
from foveate.rl.traces import answer_of, write_traces
from foveate.rl.trajectory import read_trajectories, write_trajectories

NANO = Path(__file__).parents[2] / "models" / "nano" / "weights"


@pytest.fixture(scope="module")
def played() -> list[Trajectory]:
    config = PolicyConfig(start=str(NANO), iterations=1, prompts=2, samples=1)
    with rollouts(Thinker.from_pretrained(NANO), at_once=2, budget=config.budget, keeps_messages=True) as playing:
        return list(playing.play(jobs_of(config, 0, {})))


@pytest.fixture
def file(played: list[Trajectory], tmp_path: Path) -> Path:
    write_trajectories(tmp_path / "some.jsonl", played)
    return tmp_path / "some.jsonl"


def test_the_run_comes_back_as_it_was(file: Path, played: list[Trajectory]) -> None:
    for saved, trajectory in zip(read_trajectories(file), played, strict=True):
        assert trajectory.record is not None
        assert answer_of(saved.run) == trajectory.record.run


def test_a_page_for_each_and_an_index(file: Path, played: list[Trajectory], capsys: pytest.CaptureFixture[str]) -> None:
    out = file.parent / "pages"
    assert main(["trace", str(file), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"
    index = (out / "index.html").read_text()
    for line, trajectory in enumerate(played, start=1):
        assert trajectory.record is not None
        assert len(trajectory.record.run.images) > 1  # it did look
        page = (out / str(line) / "trace.html").read_text()
        assert page.count("data:image/") == len(trajectory.record.run.images)
        assert f'<a href="{line}/trace.html">{line}</a>' in index
        assert (out / str(line) / "trace.json").is_file()


def test_only_what_is_asked_for(file: Path) -> None:
    out = file.parent / "pages"
    assert main(["trace", str(file), "2", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["2", "index.html"]
    with pytest.raises(InputError, match=r"has no conversation on line 3"):
        write_traces(file, out, [1, 3])
    with pytest.raises(InputError, match=r"cannot write pages"):
        write_traces(file, file)
    (file.parent / "empty.jsonl").touch()
    with pytest.raises(InputError, match=r"has no conversation on line 1"):
        write_traces(file.parent / "empty.jsonl", out)


def test_what_is_hostile_stays_text(played: list[Trajectory], tmp_path: Path) -> None:
    item = replace(played[0].job.item, question="<script>a()</script>", answer="\u202eb<b>")
    spoilt = replace(played[0], answer="<img src=x>", job=replace(played[0].job, item=item))
    write_trajectories(tmp_path / "some.jsonl", [spoilt])
    index = write_traces(tmp_path / "some.jsonl", tmp_path / "pages").read_text()
    page = (tmp_path / "pages" / "1" / "trace.html").read_text()
    assert "<script" not in index + page
    assert "<img src=x" not in index
    assert "\u202e" not in index


def test_a_run_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="wanted one of foveate rollout"):
        answer_of({"answer": "7"})
