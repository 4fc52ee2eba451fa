"""The curves of a training are drawn from what it logged."""

import json
from pathlib import Path

import pytest
from PIL import Image

from foveate.errors import ConfigError
from foveate.rl.curves import draw_curves


def test_a_row_of_panels_for_each_run(tmp_path: Path) -> None:
    for name, steps in (("a", 3), ("b", 5)):
        rows = [{"step": step, "loss": 1 / (1 + step), "token_accuracy": step / 9, "lr": 1.0} for step in range(steps)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    heights = []
    for runs in (["a"], ["a", "b"]):
        draw_curves([tmp_path / run for run in runs], tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            heights.append(picture.height)
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
    assert heights[1] == pytest.approx(2 * heights[0], abs=2)


def test_a_folder_without_a_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no rows in .*metrics\.jsonl"):
        draw_curves([tmp_path], tmp_path / "curves.png")
