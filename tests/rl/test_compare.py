"""Trainings beside each other: seeds become one row, and what is unseen stands beside what was learned from."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from foveate.agent.budget import Budget
from foveate.errors import ConfigError, InputError
from foveate.models.checkpoint import nano_path
from foveate.rl.compare import SUITE, by_training, draw, evaluate_all, evened, report_file, state_of, table
from foveate.rl.learner import TOKENS_OF_FAMILY
from foveate.rl.policy_config import USUAL


def log(folder: Path, name: str, accuracies: list[float], tokens: float) -> Path:
    run = folder / name
    run.mkdir()
    rows = [
        {"iteration": idx + 1, "accuracy": accuracy, "policy_tokens": tokens - idx, "seconds": 60.0 * (idx + 1)}
        for idx, accuracy in enumerate(accuracies)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def answered(run: Path, right: float, *, step: int, n: int = 240, suite: str = SUITE, **more: Any) -> None:
    report = {"accuracy": right, "n": n, "policy_tokens": 80} | state_of(run, suite) | {"step": step} | more
    report_file(run, suite).write_text(json.dumps(report))


def test_seeds_of_one_training_are_one_row(tmp_path: Path) -> None:
    one = log(tmp_path, "pmd-0", [0.4, 0.5, 0.6, 0.7, 0.8, 0.9], 100)
    two = log(tmp_path, "pmd-1", [0.5, 0.6, 0.7, 0.8], 120)
    other = log(tmp_path, "grpo", [0.5], 90)
    answered(one, 0.85, step=6)
    answered(two, 0.75, step=4)
    assert by_training([one, two, other]) == {"pmd": [one, two], "grpo": [other]}
    header, _, first, second = table([one, two, other]).splitlines()
    assert [cell.strip() for cell in first.strip("|").split("|")] == [
        "pmd", "2", "5 (4 to 6)", "5 (4 to 6)", "55.0% (50.0% to 60.0%) → 75.0% (70.0% to 80.0%)",
        "109 (99 to 119) → 107 (96 to 118)", "80.0% (75.0% to 85.0%) of 240", "80",
    ]  # fmt: skip
    assert second == "| grpo | 1 | 1 | 1 | 50.0% → 50.0% | 90 → 90 |  |  |"
    assert "| nano-validation: right | tokens |" in header
    assert header.count("|") == first.count("|") == second.count("|")


def test_a_training_that_plays_nothing_has_what_is_unseen(tmp_path: Path) -> None:
    run = tmp_path / "dpo-0"
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 80, "loss": 0.3, "seconds": 600.0}) + "\n")
    answered(run, 0.7, step=80, suite="nano-test")
    assert table([run], "nano-test").splitlines()[2] == "| dpo | 1 | 80 | 10 |  |  | 70.0% of 240 | 80 |"
    assert table([run]).splitlines()[2] == "| dpo | 1 | 80 | 10 |  |  |  |  |"
    draw([run, log(tmp_path, "pmd-0", [0.4, 0.6], 100)], tmp_path / "some.png")
    assert (tmp_path / "some.png").stat().st_size > 0


def test_the_table_says_how_many_were_asked_how_much(tmp_path: Path) -> None:
    one, two, three = (log(tmp_path, f"pmd-{seed}", [0.5, 0.6], 90) for seed in range(3))
    answered(one, 0.8, step=2)
    answered(two, 0.9, step=2, n=120)
    answered(three, 0.1, step=1)  # it has gone on since
    cells = table([one, two, three]).splitlines()[2].split("|")
    assert cells[7:9] == [" 85.0% (80.0% to 90.0%) of 120 and 240, 2 of 3 seeds ", " 80 "]


def test_the_table_says_how_many_a_budget_ended(tmp_path: Path) -> None:
    runs = [log(tmp_path, f"pmd-{seed}", [0.5], 90) for seed in range(3)]
    for run, cut in zip(runs, (4, 1), strict=False):
        answered(run, 0.8, step=1, statuses={"answered": 240 - cut, "out_of_budget": cut})
    answered(runs[2], 0.8, step=1, statuses={"answered": 240})
    told = [table(some).splitlines()[2].split("|")[7] for some in (runs, runs[2:])]
    assert told == [" 80.0% of 240, 5 out of budget ", " 80.0% of 240 "]


def test_families_count_alike_however_often_they_were_asked(tmp_path: Path) -> None:
    """A policy is asked more of what it gets wrong."""
    run, other = log(tmp_path, "pmd-0", [0.25], 90), log(tmp_path, "grpo-0", [0.25], 90)
    (row,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    row |= {"accuracy_label": 1.0, "accuracy_table": 0.0, "tokens_label": 40.0, "tokens_table": 100.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    first, second = table([run, other]).splitlines()[2:]
    assert "| 50.0% → 50.0% | 70 → 70 |" in first
    assert "| 25.0% → 25.0% | 90 → 90 |" in second
    later = {"policy_tokens": 50.0, "tokens_table": 50.0, "seconds": 120.0}
    assert evened([row, later], "policy_tokens", TOKENS_OF_FAMILY) == [(60.0, 70.0), (120.0, 45.0)]


def test_trainings_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = (log(tmp_path / name, "pmd-0", [0.5], 90) for name in ("old", "new"))
    other = log(tmp_path, "grpo-0", [0.5], 90)
    assert by_training([old, new, other]) == {
        str(tmp_path / "old" / "pmd"): [old], str(tmp_path / "new" / "pmd"): [new], "grpo": [other]
    }  # fmt: skip


def test_the_table_says_where_more_could_be_seen(tmp_path: Path) -> None:
    run = log(tmp_path, "pmd-0", [0.5], 90)
    for room, told in ((USUAL.image_tokens, "80.0% of 240"), (40_000, "80.0% of 240, 40000 image tokens")):
        answered(run, 0.8, step=1, image_tokens=room)
        assert f"| {told} |" in table([run])


def test_a_number_that_a_row_lacks_is_left_out(tmp_path: Path) -> None:
    run = log(tmp_path, "pmd-0", [0.4, 0.6], 90)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"iteration": 3, "policy_tokens": 80.0, "seconds": 180.0}) + "\n")
    assert "| 50.0% → 50.0% | 86 → 86 |" in table([run])
    draw([run], tmp_path / "some.png")


def test_a_run_is_asked_again_when_it_has_gone_on_or_more_is_wanted(tmp_path: Path) -> None:
    run = log(tmp_path, "pmd-0", [0.5], 90)
    shutil.copytree(nano_path(), run, dirs_exist_ok=True)
    evaluate_all([run], "nano-test", 1, workers=1)
    report = json.loads(report_file(run, "nano-test").read_text())
    assert (report["suite"], report["n"], report["limit"], report["step"], report["accuracy"]) == (
        "nano-test", 1, 1, 1, 1.0,
    )  # fmt: skip
    asked: list[tuple[str, int]] = []

    def counting(suite: str, *, limit: int, **_: object) -> Any:
        asked.append((suite, limit))
        return SimpleNamespace(to_json=dict)

    evaluate_all([run], "nano-test", 1, workers=1, ask=counting)
    assert asked == []
    evaluate_all([run], "nano-test", 2, workers=1, ask=counting)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"iteration": 2, "seconds": 120.0}) + "\n")
    for _ in range(2):
        evaluate_all([run], "nano-test", 2, workers=1, ask=counting)
    evaluate_all([run], SUITE, 2, workers=1, ask=counting)
    assert asked == [("nano-test", 2), ("nano-test", 2), (SUITE, 2)]
    folders = [tmp_path / name / "own" for name in ("a", "b")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "answers.jsonl").touch()
    for folder in (*folders, folders[1]):
        evaluate_all([run], str(folder), 2, workers=1, ask=counting)
    assert asked[3:] == [(str(folder), 2) for folder in folders]
    with pytest.raises(InputError, match="got the suite nowhere, wanted one of"):
        evaluate_all([run], "nowhere", 2, workers=1, ask=counting)


def test_a_run_is_asked_without_a_clock_and_again_with_more_image_tokens(tmp_path: Path) -> None:
    run = log(tmp_path, "pmd-0", [0.5], 90)
    budgets: list[Budget] = []

    def noting(_: str, *, budget: Budget, **__: object) -> Any:
        budgets.append(budget)
        return SimpleNamespace(to_json=dict)

    evaluate_all([run], "nano-test", 2, workers=1, ask=noting)
    for _ in range(2):
        evaluate_all([run], "nano-test", 2, workers=1, image_tokens=5000, ask=noting)
    assert [budget.image_tokens for budget in budgets] == [USUAL.image_tokens, 5000]
    assert [budget.seconds for budget in budgets] == [math.inf, math.inf]


def test_the_program_says_an_error_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "foveate.rl.compare", str(tmp_path), "--out", str(tmp_path / "some.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("foveate: no rows in")
    assert len(done.stderr.splitlines()) == 1
    done = subprocess.run([*command[:-1], "table.md"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "got 'table.md', wanted a file that ends in .png" in done.stderr
    with pytest.raises(InputError, match="cannot write"):
        draw([log(tmp_path, "pmd-0", [0.5], 90)], tmp_path / "nowhere" / "some.png")


def test_a_picture_shows_every_training(tmp_path: Path) -> None:
    runs = [log(tmp_path, "pmd-0", [0.4, 0.6], 100), log(tmp_path, "grpo-0", [0.5, 0.5], 90)]
    draw(runs, tmp_path / "some.png")
    with Image.open(tmp_path / "some.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20) or []}
    assert {(31, 119, 180), (255, 127, 14)} <= colors


def test_a_folder_without_a_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rows in"):
        table([tmp_path])
