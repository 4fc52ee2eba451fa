"""Proves: a budget refuses nonsense, says which limit is spent, and pays for images before they are shown."""

from typing import Any

import pytest

from foveate.agent.budget import Budget
from foveate.agent.records import Usage
from foveate.errors import ConfigError


@pytest.mark.parametrize(
    "wrong",
    [
        {"turns": -1},
        {"turns": 1.5},
        {"turns": True},
        {"policy_tokens": "9"},
        {"seconds": float("nan")},
        {"seconds": None},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Budget(**wrong)


@pytest.mark.parametrize("name", ["turns", "policy_tokens", "seconds"])
def test_a_spent_limit_is_named(name: str) -> None:
    budget = Budget(**{name: 5})
    assert budget.spent(Usage(**{name: 4})) is None
    assert budget.spent(Usage(**{name: 5})) == f"{name}: 5 of 5 used"
    assert Budget(**{name: 0}).spent(Usage()) == f"{name}: 0 of 0 used"


def test_an_infinite_time_is_never_spent() -> None:
    assert Budget(seconds=float("inf")).spent(Usage(seconds=1e12)) is None


def test_images_are_paid_before_they_are_shown() -> None:
    budget = Budget(image_tokens=100)
    assert budget.refuses_image(Usage(image_tokens=60), 40) is None
    refusal = budget.refuses_image(Usage(image_tokens=60), 41)
    assert refusal == "image_tokens: 60 of 100 used and the next image needs 41"
