"""The rows of a training reach the trackers that were asked for, and a missing one is named."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foveate.errors import ConfigError
from foveate.rl import trackers
from foveate.rl.trackers import tracked


def test_tensorboard_has_every_number(tmp_path: Path) -> None:
    with tracked(["tensorboard"], tmp_path) as log:
        log(1, {"loss": 2.0, "accuracy": 0.5})
        log(2, {"loss": 1.0, "accuracy": 0.75})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    read = {name: [(point.step, point.value) for point in events.Scalars(name)] for name in ("loss", "accuracy")}
    assert read == {"loss": [(1, 2.0), (2, 1.0)], "accuracy": [(1, 0.5), (2, 0.75)]}


class Wandb:
    """What trackio and wandb offer, for a machine that has neither and no network."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def init(self, project: str, name: str) -> None:
        self.said.append((project, name))

    def log(self, row: dict[str, float], step: int) -> None:
        self.said.append((step, row))

    def finish(self) -> None:
        self.said.append("finished")


def test_wandb_and_trackio_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Wandb()
    monkeypatch.setattr(trackers, "import_module", lambda name: fake)
    with tracked(["wandb", "trackio"], tmp_path / "run") as log:
        log(7, {"loss": 1.0})
    assert fake.said == [*[("foveate", "run")] * 2, *[(7, {"loss": 1.0})] * 2, *["finished"] * 2]


def test_one_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(trackers, "import_module", missing)
    message = "trackers names trackio, which is not installed: pip install trackio"
    with pytest.raises(ConfigError, match=message), tracked(["trackio"], tmp_path):
        pass
