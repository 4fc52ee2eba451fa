"""Preference pairs out of rollouts of the same question: what to do rather than what.

    right      a right answer rather than a wrong one; those that saw the evidence first, of these the shortest first
    faithful   a right answer whose crops covered the evidence rather than a right one whose crops did not, or that had
               none
    short      the one with fewer tokens among right answers that are alike in this: to be short is no reason not to
               look

Only whole conversations are compared, and for each of these reasons one is at most once on each side. A crop covers
what has to be read as foveate.rl.report says; where that is not known nothing is faithful.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from foveate.models.reasoner import Message
from foveate.rl.trajectory import Saved

Reason = Literal["right", "short", "faithful"]
LONGER = 1.15
"""How many times as long the rejected one is at least, among right answers."""


class Preference(NamedTuple):
    """Two ways to go on from one beginning: messages with their pictures, as a processor takes them."""

    prompt: list[Message]
    """What both begin with and nobody learns, not even turns of an assistant."""
    chosen: list[Message]
    rejected: list[Message]


class Pair(NamedTuple):
    """Two conversations about one question."""

    chosen: Saved
    rejected: Saved
    reason: Reason


def pairs_of(trajectories: Iterable[Saved]) -> Iterator[Pair]:
    """Pairs of each question, in the order of the questions."""
    groups: dict[int, list[Saved]] = defaultdict(list)
    for trajectory in trajectories:
        if trajectory.is_whole:
            groups[trajectory.group].append(trajectory)
    for group in groups.values():
        yield from _of_group(group)


def _of_group(group: Sequence[Saved]) -> Iterator[Pair]:
    right = sorted((one for one in group if one.right), key=lambda one: (not one.saw_evidence, len(one.sampled_S)))
    wrong = [one for one in group if not one.right]
    for chosen, rejected in zip(right, wrong, strict=False):
        yield Pair(chosen, rejected, "right")
    faithful, unfaithful = ([one for one in right if one.saw_evidence is saw] for saw in (True, False))
    for chosen, rejected in zip(faithful, unfaithful, strict=False):
        yield Pair(chosen, rejected, "faithful")
    for alike in (faithful, unfaithful):
        for chosen, rejected in zip(alike[: len(alike) // 2], reversed(alike), strict=False):
            if len(rejected.sampled_S) >= LONGER * len(chosen.sampled_S):
                yield Pair(chosen, rejected, "short")
