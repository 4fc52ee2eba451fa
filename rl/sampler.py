"""Which families an iteration asks about: all alike, or more of some (curriculum and prioritized sampling, Kimi k1.5).

Prioritized, a family's share is in proportion to 1 - its success rate; in a curriculum it goes over `curriculum`
iterations from its success rate to that, from the easy to the hard. A tenth of the questions is for all alike, so
that nothing is forgotten. Success is remembered over iterations, the newest counting most.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import floor
from typing import Literal

from foveate.rl.limits import Limit, at_least, check, check_read
from foveate.rl.tasks.scene import FAMILIES

LEAST_SHARE = 0.1
GOLDEN = (5**0.5 - 1) / 2
MEMORY = 0.7
"""How much of what was known of a family stays after an iteration that asked about it."""


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How families are chosen."""

    families: tuple[str, ...] = FAMILIES
    """One that stands there twice is asked about twice as often."""
    order: Literal["uniform", "prioritized", "curriculum"] = "uniform"
    curriculum: int = 10
    """Iterations from the easy to the hard."""

    def __post_init__(self) -> None:
        check(self, "sampler.", families=Limit("at least one family", bool), curriculum=at_least(1))
        check_read(self, "sampler.", "curriculum", order="curriculum")


def remembered(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Success rates after an iteration that saw those in `now`."""
    return {**before, **{name: MEMORY * before.get(name, rate) + (1 - MEMORY) * rate for name, rate in now.items()}}


def dealt(config: SamplerConfig, success: Mapping[str, float], count: int, iteration: int = 0) -> list[str]:
    """`count` families in turns, as often as their shares say.

    What cannot be divided goes round (systematic sampling, whose beginning moves on by the golden ratio): a family with
    a share of a sixth of a question is asked in about every sixth iteration.
    """
    families = config.families
    weights = [1.0] * len(families)
    if config.order != "uniform" and success:
        hard = min(1.0, iteration / config.curriculum) if config.order == "curriculum" else 1.0
        rates = [success.get(name, 0.0) for name in families]
        weights = [(1 - hard) * rate + hard * (1 - rate) for rate in rates]
    total = sum(weights) or 1.0
    shares = [(1 - LEAST_SHARE) * weight / total + LEAST_SHARE / len(families) for weight in weights]
    begin = (0.5 + GOLDEN * iteration) % 1
    ends = [floor(begin + count * up_to / sum(shares)) for up_to in accumulate(shares)]
    dealt_to = dict.fromkeys(families, 0)
    for name, (before, end) in zip(families, pairwise([0, *ends[:-1], count]), strict=True):
        dealt_to[name] += end - before
    return _in_turns({name: some for name, some in dealt_to.items() if some})


def _in_turns(counts: Mapping[str, int]) -> list[str]:
    """Names spread evenly over the list."""
    places = [((turn + 0.5) / count, name) for name, count in counts.items() for turn in range(count)]
    return [name for _, name in sorted(places, key=lambda place: place[0])]
