"""Trainings beside each other: seeds become one row, and what is unseen stands beside what was learned from."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from foveate.errors import ConfigError
from foveate.models.checkpoint import nano_path
from foveate.rl.compare import by_training, draw, evaluate_all, table


def log(folder: Path, name: str, accuracies: list[float], tokens: float) -> Path:
    run = folder / name
    run.mkdir()
    rows = [
        {"iteration": idx + 1, "accuracy": accuracy, "policy_tokens": tokens - idx, "seconds": 60.0 * (idx + 1)}
        for idx, accuracy in enumerate(accuracies)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_seeds_of_one_training_are_one_row(tmp_path: Path) -> None:
    one = log(tmp_path, "pmd-0", [0.4, 0.5, 0.6, 0.7, 0.8, 0.9], 100)
    two = log(tmp_path, "pmd-1", [0.5, 0.6, 0.7, 0.8], 120)
    other = log(tmp_path, "grpo", [0.5], 90)
    for run, right in ((one, 0.85), (two, 0.75)):
        (run / "eval.json").write_text(json.dumps({"accuracy": right, "n": 240, "policy_tokens": 80}))
    assert by_training([one, two, other]) == {"pmd": [one, two], "grpo": [other]}
    header, _, first, second = table([one, two, other]).splitlines()
    assert [cell.strip() for cell in first.strip("|").split("|")] == [
        "pmd", "2", "5 (4 to 6)", "5 (4 to 6)", "55.0% (50.0% to 60.0%) → 75.0% (70.0% to 80.0%)",
        "109 (99 to 119) → 107 (96 to 118)", "80.0% (75.0% to 85.0%) of 240", "80",
    ]  # fmt: skip
    assert second == "| grpo | 1 | 1 | 1 | 50.0% → 50.0% | 90 → 90 |  |  |"
    assert header.count("|") == first.count("|") == second.count("|")


def test_a_training_that_plays_nothing_has_what_is_unseen(tmp_path: Path) -> None:
    run = tmp_path / "dpo-0"
    run.mkdir()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 80, "loss": 0.3, "seconds": 600.0}) + "\n")
    (run / "eval.json").write_text(json.dumps({"accuracy": 0.7, "n": 240, "policy_tokens": 94.2}))
    assert table([run]).splitlines()[2] == "| dpo | 1 | 80 | 10 |  |  | 70.0% of 240 | 94 |"
    draw([run, log(tmp_path, "pmd-0", [0.4, 0.6], 100)], tmp_path / "some.png")
    assert (tmp_path / "some.png").stat().st_size > 0


def test_a_run_that_was_not_asked_is_asked(tmp_path: Path) -> None:
    fresh, asked = tmp_path / "fresh", tmp_path / "asked"
    shutil.copytree(nano_path(), fresh)
    asked.mkdir()
    (asked / "eval.json").write_text("{}")
    evaluate_all([fresh, asked], 1, workers=1)
    report = json.loads((fresh / "eval.json").read_text())
    assert (report["suite"], report["n"], report["accuracy"]) == ("nano-test", 1, 1.0)
    assert (asked / "eval.json").read_text() == "{}"


def test_a_picture_shows_every_training(tmp_path: Path) -> None:
    runs = [log(tmp_path, "pmd-0", [0.4, 0.6], 100), log(tmp_path, "grpo-0", [0.5, 0.5], 90)]
    draw(runs, tmp_path / "some.png")
    with Image.open(tmp_path / "some.png") as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20) or []}
    assert {(31, 119, 180), (255, 127, 14)} <= colors


def test_a_folder_without_a_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no rows in"):
        table([tmp_path])
