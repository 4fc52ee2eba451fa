"""Demonstrators that are not the oracle: what a policy learns from when its cold start shall leave room to improve.

People who show how a question is answered do less than they must, or more. Both are drawn here from an oracle's
question:

    idle     gives up at first sight, which nobody can read
    again    looks at each place up to four times before saying what is there
    aloud    says each thought up to four times

An idle one looks nowhere. The others decide every time whether to do so once more, so that samples of one prompt
differ in length. Nothing is said that the oracle does not say, and no answer that cannot be seen: to imitate either
cost nano what it had learned of reading (docs/log.md).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from foveate.rl.tasks.scene import OracleStep, Question

MOST_TIMES = 4
"""That one looks at a place, or says a thought."""
NO_ANSWER = "?"


@dataclass(frozen=True, kw_only=True)
class Demonstrators:
    """How likely each habit is, from 0 to 1; the oracle has none."""

    idle: float = 0.0
    again: float = 0.0
    """Of each look that another follows."""
    aloud: float = 0.0
    """Of each thought that it is said once more."""


def demonstrated(question: Question, habits: Demonstrators, rng: random.Random) -> Question:
    """The question as a demonstrator with some of the habits goes about it."""
    if rng.random() < habits.idle:
        return replace(question, steps=(), final_thought="", answer=NO_ANSWER)
    steps = tuple(_looking_again(question, habits.again, rng))
    return replace(
        question,
        steps=tuple(replace(step, thought=_aloud(step.thought, habits.aloud, rng)) for step in steps),
        final_thought=_aloud(question.final_thought, habits.aloud, rng),
    )


def _looking_again(question: Question, again: float, rng: random.Random) -> Iterator[OracleStep]:
    """The steps with each look as often as it is taken; a crop is cut from the newest of its place."""
    newest, count = [0], 0
    for step in question.steps:
        if step.tool != "zoom":
            yield step
            continue
        look = replace(step, arguments={**step.arguments, "image": newest[step.arguments["image"]]})
        looks = _times(again, rng)
        yield from [look] * looks
        count += looks
        newest.append(count)


def _aloud(thought: str, aloud: float, rng: random.Random) -> str:
    """The thought as often as it is said."""
    return " ".join([thought] * _times(aloud, rng)) if thought else thought


def _times(likely: float, rng: random.Random) -> int:
    """How often something is done that is `likely` done once more every time."""
    times = 1
    while times < MOST_TIMES and rng.random() < likely:
        times += 1
    return times
