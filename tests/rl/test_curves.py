"""The curves of a training are drawn from what it logged."""

import json
from pathlib import Path

import pytest
from PIL import Image

from foveate.errors import ConfigError
from foveate.rl.curves import by_kind, draw_curves, read_metrics

WIDTH_PX, HEIGHT_PX = 495, 306
"""Of a panel."""


def log(run: Path, *rows: dict[str, float]) -> Path:
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_row_of_panels_for_each_run(tmp_path: Path) -> None:
    for name, steps in (("a", 3), ("b", 5)):
        rows = [{"step": step, "loss": 1 / (1 + step), "token_accuracy": step / 9, "lr": 1.0} for step in range(steps)]
        log(tmp_path / name, *rows)
    draw_curves([tmp_path / "a", tmp_path / "b"], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (2 * WIDTH_PX, 2 * HEIGHT_PX)
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


def test_a_number_stands_beside_its_like(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 0.5, "preferred": 0.9, "margin": 5.0 * step, "lr": 1.0} for step in (1, 2)]
    run = log(tmp_path / "dpo", *rows)
    assert by_kind(run) == {
        "losses": {"loss": [(1, 0.5), (2, 0.5)]},
        "shares": {"preferred": [(1, 0.9), (2, 0.9)]},
        "other numbers": {"margin": [(1, 5.0), (2, 10.0)]},
    }
    draw_curves([run, log(tmp_path / "sft", {"step": 1, "loss": 1.0})], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width == 3 * WIDTH_PX


def test_what_was_logged_again_counts(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": loss} for step, loss in ((1, 5.0), (2, 4.0), (3, 3.0), (2, 0.4), (3, 0.3))]
    run = log(tmp_path / "run", *rows)
    assert [(row["step"], row["loss"]) for row in read_metrics(run)] == [(1, 5.0), (2, 0.4), (3, 0.3)]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # a kill in the middle of a line
    assert len(read_metrics(run)) == 3


def test_policies_are_for_the_other_picture(tmp_path: Path) -> None:
    run = log(tmp_path / "pmd", {"iteration": 1, "accuracy": 0.5, "policy_tokens": 89.0, "kl": -0.1})
    with pytest.raises(ConfigError, match=r"pmd logs no loss, as policies do not; python -m foveate\.rl\.compare"):
        draw_curves([run], tmp_path / "curves.png")


def test_a_folder_without_a_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no rows in .*metrics\.jsonl"):
        draw_curves([tmp_path], tmp_path / "curves.png")
