"""What a stage meets when: examples that are there in rounds, each in another order, or ever new drawings.

It depends on the seed and the place alone, so a run that was killed goes on with what was due.
"""

import random
from functools import lru_cache


def batch_at(index: int, size: int, count: int, seed: int) -> list[int]:
    """Which of `count` examples are in batch `index` of `size`; where they are fewer than that, some come twice."""
    places = (divmod(place, count) for place in range(index * size, (index + 1) * size))
    return [_order(turn, count, seed)[rest] for turn, rest in places]


@lru_cache(maxsize=2)
def _order(turn: int, count: int, seed: int) -> list[int]:
    return random.Random(f"{seed}/{turn}").sample(range(count), count)


def drawing_seed(seed: int, index: int) -> int:
    """What batch `index` of a run is drawn from."""
    return seed * 10_000_019 + index


def difficulty_at(index: int, ramp_steps: int) -> float:
    """How hard batch `index` is drawn, from 0 at the first to 1 at batch `ramp_steps` and after it."""
    return min(1.0, index / ramp_steps) if ramp_steps else 1.0
