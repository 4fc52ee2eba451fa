"""The page of a training has its curves and conversations, and nothing that a model wrote can act in it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from played import BUDGET, jobs, whole

from foveate.models import Thinker
from foveate.rl.page import add_examples, write_page
from foveate.rl.rollout import Trajectory, rollouts


@pytest.fixture(scope="module")
def played(thinker: Thinker) -> list[Trajectory]:
    with rollouts(thinker, at_once=4, budget=BUDGET) as playing:
        return whole(list(playing.play(jobs(2))))


def test_curves_and_conversations(thinker: Thinker, played: list[Trajectory], tmp_path: Path) -> None:
    rows = [{"iteration": number, "accuracy": number / 4, "seconds": 60.0 * number} for number in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for iteration in (1, 2, 3):
        add_examples(tmp_path, iteration, played, thinker.processor.codec)
    page = write_page(tmp_path).read_text()
    assert "3 iterations, 3 minutes" in page
    assert "0.25 → 0.75" in page
    assert 'points="0.0,85.0 140.0,45.0 280.0,5.0"' in page
    assert [heading in page for heading in ("Iteration 1", "Iteration 2", "Iteration 3")] == [True, False, True]
    assert "Wrong: y, wanted x" in page


def test_steps_are_counted_where_nothing_is_played(tmp_path: Path) -> None:
    rows = [{"loss": 1.0 / step, "step": step, "lr": 1e-3, "seconds": 30.0 * step} for step in (2, 4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = write_page(tmp_path).read_text()
    assert "4 steps, 2 minutes" in page
    assert page.count("<polyline") == 1
    (tmp_path / "metrics.jsonl").unlink()
    assert "0 iterations" in write_page(tmp_path).read_text()


def test_what_a_model_wrote_is_text(thinker: Thinker, played: list[Trajectory], tmp_path: Path) -> None:
    attack = replace(played[1], answer="<script>alert(1)</script>")
    add_examples(tmp_path, 1, [attack], thinker.processor.codec)
    page = write_page(tmp_path).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
