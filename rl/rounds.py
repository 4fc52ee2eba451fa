"""The order in which a stage meets what it learns from: all once, then all again in another order, without an end.

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
