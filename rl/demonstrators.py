"""Demonstrators that are not the oracle: what a policy learns from when its cold start shall leave room to improve.

People who show how a question is answered do less than they must, or more. Both are drawn here from an oracle's
question:

    idle     gives up at first sight, which nobody can read
    again    looks at each place up to four times before saying what is there

An idle one looks nowhere. The others decide after every look whether to look once more, so that samples of one prompt
differ in length. Nothing is said that the oracle does not say, and no answer that cannot be seen: to imitate either
cost nano what it had learned of reading (docs/log.md).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from foveate.rl.tasks.scene import OracleStep, Question

MOST_LOOKS = 4
"""At one place."""
NO_ANSWER = "?"


@dataclass(frozen=True, kw_only=True)
class Demonstrators:
    """How likely each habit is, from 0 to 1; the oracle has none."""

    idle: float = 0.0
    again: float = 0.0
    """Of each look that another follows."""


def demonstrated(question: Question, habits: Demonstrators, rng: random.Random) -> Question:
    """The question as a demonstrator with some of the habits goes about it."""
    if rng.random() < habits.idle:
        return replace(question, steps=(), final_thought="", answer=NO_ANSWER)
    return replace(question, steps=tuple(_looking_again(question, habits.again, rng)))


def _looking_again(question: Question, again: float, rng: random.Random) -> Iterator[OracleStep]:
    """The steps with each look as often as it is taken; a crop is cut from the newest of its place."""
    newest, count = [0], 0
    for step in question.steps:
        if step.tool != "zoom":
            yield step
            continue
        look, looks = replace(step, arguments={**step.arguments, "image": newest[step.arguments["image"]]}), 1
        while looks < MOST_LOOKS and rng.random() < again:
            looks += 1
        yield from [look] * looks
        count += looks
        newest.append(count)
