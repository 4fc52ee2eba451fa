"""The seconds of a run go on from where it was, and its minutes count from when it is gone on with."""

from types import SimpleNamespace

import pytest

from foveate.rl import ending
from foveate.rl.ending import Clock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, as `seconds`, which stands still until it is set."""
    time = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(ending, "time", SimpleNamespace(monotonic=lambda: time.seconds))
    return time


def test_seconds_go_on_from_the_last_row(now: SimpleNamespace) -> None:
    clocks = [Clock(rows, None) for rows in ([], [{"seconds": 5.0}, {"seconds": 100.0}])]
    now.seconds += 7
    assert [clock.seconds() for clock in clocks] == [7.0, 107.0]


def test_minutes_are_of_this_time_alone(now: SimpleNamespace) -> None:
    clock, endless = Clock([{"seconds": 9000.0}], 2.0), Clock([], None)
    now.seconds += 120
    assert not clock.is_up()
    now.seconds += 1
    assert clock.is_up()
    assert not endless.is_up()
