"""Families are dealt evenly, or in proportion to what is got wrong."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.rl.sampler import SamplerConfig, dealt, remembered

FAMILIES = ("a", "b", "c", "d")
Order = Literal["uniform", "prioritized", "curriculum"]


def test_uniform_deals_all_alike_in_turns() -> None:
    names = dealt(SamplerConfig(families=FAMILIES), {"a": 1.0}, 8)
    assert names == ["a", "b", "c", "d", "a", "b", "c", "d"]


def test_what_cannot_be_divided_goes_to_each_in_turn() -> None:
    asked = [name for iteration in range(4) for name in dealt(SamplerConfig(families=FAMILIES), {}, 6, iteration)]
    assert {name: asked.count(name) for name in FAMILIES} == dict.fromkeys(FAMILIES, 6)


@pytest.mark.parametrize("order", ["uniform", "prioritized", "curriculum"])
def test_a_family_that_is_named_twice_comes_twice_as_often(order: Order) -> None:
    config = SamplerConfig(families=("a", "a", "b"), order=order)
    names = dealt(config, {"a": 0.5, "b": 0.5}, 6)
    assert (names.count("a"), names.count("b")) == (4, 2)


def test_what_cannot_be_divided_goes_round() -> None:
    config = SamplerConfig(families=("a", "a", "b"))
    names = [name for iteration in range(3) for name in dealt(config, {}, 4, iteration)]
    assert (names.count("a"), names.count("b")) == (8, 4)


def test_what_is_got_wrong_comes_more_often_and_nothing_is_forgotten() -> None:
    config = SamplerConfig(families=FAMILIES, order="prioritized")
    names = dealt(config, {"a": 1.0, "b": 0.5, "c": 0.0}, 26)
    assert {name: names.count(name) for name in FAMILIES} == {"a": 1, "b": 5, "c": 10, "d": 10}


def test_what_is_got_right_is_asked_now_and_then() -> None:
    config = SamplerConfig(families=FAMILIES, order="prioritized")
    success = {"a": 0.97, "b": 0.95, "c": 0.97, "d": 0.0}
    asked = [name for iteration in range(30) for name in dealt(config, success, 4, iteration)]
    assert [round(asked.count(name) / 30, 1) for name in FAMILIES] == [0.2, 0.2, 0.2, 3.3]


def test_a_curriculum_goes_from_the_easy_to_the_hard() -> None:
    config = SamplerConfig(families=("easy", "hard"), order="curriculum", curriculum=4)
    success = {"easy": 0.75, "hard": 0.25}
    for iteration, wanted in ((0, 11.6), (2, 8), (4, 4.4), (9, 4.4)):
        assert abs(dealt(config, success, 16, iteration).count("easy") - wanted) < 1
    assert dealt(config, {}, 16).count("easy") == 8


@given(st.dictionaries(st.sampled_from(FAMILIES), st.floats(0, 1)), st.integers(0, 100))
def test_as_many_as_were_asked_for(success: dict[str, float], count: int) -> None:
    for order in ("uniform", "prioritized", "curriculum"):
        assert len(dealt(SamplerConfig(families=FAMILIES, order=order), success, count, iteration=3)) == count


def test_success_is_remembered() -> None:
    assert remembered({"b": 0.0, "c": 0.4}, {"a": 0.5, "b": 1.0}) == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.4})
