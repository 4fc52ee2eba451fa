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

    def init(self, **settings: str) -> None:
        self.said.append(settings)

    def log(self, row: dict[str, float], step: int) -> None:
        self.said.append((step, row))

    def finish(self) -> None:
        self.said.append("finished")


def test_wandb_and_trackio_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Wandb()
    monkeypatch.setattr(trackers, "import_module", lambda name: fake)
    (tmp_path / "run").mkdir()
    with tracked(["wandb", "trackio"], tmp_path / "run") as log:
        log(7, {"loss": 1.0})
    known, named = fake.said[:2]
    assert (named["project"], named["name"], named["resume"]) == ("foveate", "run", "never")
    assert known["id"]
    assert fake.said[2:] == [*[(7, {"loss": 1.0})] * 2, *["finished"] * 2]


def test_a_run_that_goes_on_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in ([(1, 4.0), (2, 3.0), (3, 2.0)], [(3, 2.5), (4, 1.0)]):
        with tracked(["tensorboard"], tmp_path, rows[0][0] - 1 or None) as log:
            for step, loss in rows:
                log(step, {"loss": loss})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars("loss")] == [(1, 4.0), (2, 3.0), (3, 2.5), (4, 1.0)]
    fake = Wandb()
    monkeypatch.setattr(trackers, "import_module", lambda name: fake)
    for done in (None, 2, None):
        with tracked(["wandb", "trackio"], tmp_path, done):
            pass
    begun = [said for said in fake.said if said != "finished"]
    ids = [settings["id"] for settings in begun if "id" in settings]
    assert ids[0] == ids[1] != ids[2]  # the last one began anew
    assert [settings["resume"] for settings in begun if "id" not in settings] == ["never", "allow", "never"]


def test_one_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(trackers, "import_module", missing)
    message = "trackers names trackio, which is not installed: pip install trackio"
    with pytest.raises(ConfigError, match=message), tracked(["trackio"], tmp_path):
        pass
