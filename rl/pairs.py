"""Preference pairs out of rollouts of the same question: what to do rather than what.

    right      a right answer rather than a wrong one
    short      among right answers the one with fewer tokens
    faithful   among right answers one whose crops were looked at rather than one that answered without a tool

Only whole conversations are compared, and for each of these reasons one is at most once on each side.
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
        if trajectory.status == "answered" and len(trajectory.sampled_S):
            groups[trajectory.group].append(trajectory)
    for group in groups.values():
        yield from _of_group(group)


def _of_group(group: Sequence[Saved]) -> Iterator[Pair]:
    right = sorted((one for one in group if one.right), key=lambda one: len(one.sampled_S))
    wrong = [one for one in group if not one.right]
    for chosen, rejected in zip(right, wrong, strict=False):
        yield Pair(chosen, rejected, "right")
    looked = [one for one in right if one.tool_calls]
    guessed = [one for one in right if not one.tool_calls]
    for chosen, rejected in zip(looked, guessed, strict=False):
        yield Pair(chosen, rejected, "faithful")
    half = len(looked) // 2
    for chosen, rejected in zip(looked[:half], reversed(looked[-half:] if half else []), strict=True):
        if len(rejected.sampled_S) >= LONGER * len(chosen.sampled_S):
            yield Pair(chosen, rejected, "short")
