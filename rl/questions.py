"""Where the questions of a training come from: pictures drawn for each, or a folder of one's own.

A folder has an answers.jsonl (foveate.rl.suite). All its questions come once, then all again in another order
(foveate.rl.rounds). Where families are chosen (`sampler.order`) each has an order of its own, in which an iteration
takes the places from iteration * prompts on: no place comes twice, those beyond what the family got are passed over.
"""

from collections import defaultdict
from typing import NamedTuple, Protocol

from foveate.rl.policy_config import PolicyConfig
from foveate.rl.rounds import batch_at
from foveate.rl.suite import FolderSuite, Item, drawn_item

EVERY = "every"
"""The one family that all questions of a folder are when none is chosen before another."""
OFFSET = 10_000_000
"""Added to the numbers of drawn pictures. Other stages draw theirs of as many, 2^40: that one comes twice is rare."""


class Turn(NamedTuple):
    """Whose turn it is."""

    family: str
    place: int
    """In the family's endless order."""
    number: int
    """Drawn for this turn."""


class Questions(Protocol):
    """What can be asked."""

    families: tuple[str, ...]

    def item(self, turn: Turn) -> Item:
        """The question whose turn it is."""
        ...


class DrawnQuestions:
    """Pictures of the train split, others for each turn."""

    def __init__(self, config: PolicyConfig) -> None:
        self.families, self.salt = config.sampler.families, str(config.seed)

    def item(self, turn: Turn) -> Item:
        """See Questions."""
        return drawn_item(turn.family, OFFSET + turn.number, "train", self.salt)


class FolderQuestions:
    """Those of a folder."""

    def __init__(self, config: PolicyConfig) -> None:
        """Raises InputError naming what is wrong with the folder or a line of its answers.jsonl."""
        suite, one_by_one = FolderSuite(config.tasks), config.sampler.order == "uniform"
        self.seed, self.items = config.seed, defaultdict[str, list[Item]](list)
        for item in map(suite.item, range(len(suite))):
            self.items[EVERY if one_by_one else item.family].append(item)
        self.families = tuple(self.items)

    def item(self, turn: Turn) -> Item:
        """See Questions."""
        items = self.items[turn.family]
        (idx,) = batch_at(turn.place, 1, len(items), self.seed)
        return items[idx]


def questions_of(config: PolicyConfig) -> Questions:
    """What a run asks. Raises InputError when its folder cannot be used."""
    return FolderQuestions(config) if config.tasks else DrawnQuestions(config)
