"""Turns begin in the order of steps, however fast each player is.

Proved with players in threads: what is claimed goes to who comes back first, not to who asks first; nobody steps past a
player that is due, or waits for one that has left; where nothing is decoded the clock goes on to who comes next.
"""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import ExitStack

import pytest

from foveate.models.pace import Pace

SOON = 0.1
"""Seconds after which what waits is taken to wait."""


def test_who_comes_back_first_claims_first() -> None:
    pace = Pace(latency=4)
    things = iter("ab")
    with ExitStack() as seats, ThreadPoolExecutor(2) as threads:
        first, second = (seats.enter_context(pace.player()) for _ in range(2))
        for player in (first, second):
            with pace.asks(player), pace.changed:
                assert pace.come() == (player, (0, 0))
        pace.go(first)
        pace.tick()
        pace.go(second)
        late = threads.submit(pace.claim, second, lambda: next(things))
        with pytest.raises(NotYet):
            late.result(SOON)
        assert threads.submit(pace.claim, first, lambda: next(things)).result(5) == "a"
        with pytest.raises(NotYet):
            late.result(SOON)
        with pace.asks(first), pace.changed:
            assert pace.come() == (first, (4, 1))
        assert late.result(5) == "b"
        with pace.asks(second), pace.changed:
            assert pace.come() == (second, (5, 2))


def test_who_ends_without_a_turn_claims_again_before_the_others() -> None:
    pace, things = Pace(), iter(["a", "b", "c", None])
    with ExitStack() as seats, ThreadPoolExecutor(1) as threads:
        first, second = (seats.enter_context(pace.player()) for _ in range(2))
        late = threads.submit(pace.claim, second, lambda: next(things))
        assert pace.claim(first, lambda: next(things)) == "a"
        with pytest.raises(NotYet):
            late.result(SOON)
        assert pace.claim(first, lambda: next(things)) == "b"
        with pace.asks(first), pace.changed:
            pace.come()
        assert late.result(5) == "c"
        assert pace.claim(second, lambda: next(things)) is None
        assert not pace._is_waited_for(0)


def test_a_player_that_begins_another_turn_claims_nothing() -> None:
    pace = Pace(latency=4)
    with ExitStack() as seats, ThreadPoolExecutor(1) as threads:
        first, second = (seats.enter_context(pace.player()) for _ in range(2))
        claim = threads.submit(pace.claim, second, lambda: "a")
        with pytest.raises(NotYet):
            claim.result(SOON)
        with pace.asks(first), pace.changed:
            assert pace.come() == (first, (0, 0))
        assert claim.result(5) == "a"


def test_nobody_steps_past_a_player_that_is_due() -> None:
    pace = Pace(latency=2)
    with pace.player() as player:
        assert not pace.all_are_here()
        with pace.asks(player), pace.changed:
            pace.come()
        assert pace.all_are_here()
        pace.go(player)
        pace.tick()
        assert pace.all_are_here()  # it is due one step later
        pace.tick()
        assert not pace.all_are_here()
        with pace.asks(player), pace.changed:
            assert pace.come() == (player, (2, 0))
        assert pace.all_are_here()
        pace.go(player)
        pace.now = 4
        assert not pace.all_are_here()
    assert pace.all_are_here()  # who has left is not waited for
    with pace.changed:
        assert pace.come() == (None, (4, 0))


def test_the_clock_goes_on_to_who_comes_next() -> None:
    pace = Pace(latency=3)
    with pace.player() as player:
        with pace.asks(player), pace.changed:
            pace.come()
        pace.go(player)
        pace.skip(9)
        assert pace.now == 3
    pace.skip(9)
    assert pace.now == 9
    pace.skip(5)
    assert pace.now == 9


def test_what_is_taken_may_fail() -> None:
    pace = Pace()

    def nothing() -> None:
        raise ValueError("nothing there")

    with pace.player() as player:
        with pytest.raises(ValueError, match="nothing there"):
            pace.claim(player, nothing)
        assert pace.claim(player, lambda: 5) == 5
