"""Scenes that several tests look at, drawn once per process."""

from collections.abc import Callable
from functools import cache

import pytest

from foveate.rl.tasks.assets import Split
from foveate.rl.tasks.scene import Scene, draw_scene

NUM_SEEDS = 6
Scenes = Callable[[str, Split], tuple[Scene, ...]]


@cache
def drawn(family: str, split: Split) -> tuple[Scene, ...]:
    return tuple(draw_scene(family, seed, split) for seed in range(NUM_SEEDS))


@pytest.fixture(scope="session")
def scenes() -> Scenes:
    return drawn
