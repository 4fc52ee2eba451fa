"""Demonstrators that are not the oracle: what a policy learns from when its cold start shall leave room to improve.

People who show how a question is answered do less than they must, or more. Both are drawn here from an oracle's
question:

    idle     gives up at first sight, which nobody can read
    again    looks at each place up to four times before saying what is there
    sure     assures that it is before it answers, in up to five sentences
    shy      finds out all, says so, and gives no answer, of which it assures nothing

An idle one looks nowhere, so what it gets wrong is short; what a shy one gets wrong is as long as the oracle's, and
shorter than what a sure one gets right: the right answer alone makes nothing shorter.
The others decide every time whether to do so once more, so that samples of one prompt
differ in length. What is said beside the oracle's words comes when all has been read, and no answer is given
that cannot be seen: to imitate more cost nano what it had learned of reading (docs/log.md).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from foveate.rl.limits import SHARE, check
from foveate.rl.tasks.scene import FAMILIES, Family, OracleStep, Question

MOST_LOOKS = 4
"""At one place."""
ASSURANCES = (" I am sure.", " It is clear.", " I need no more.", " There is no other.", " So it is.")
"""In their order; one sentence said again and again would have no end where the likeliest token is always taken."""
NO_ANSWER = "?"


@dataclass(frozen=True, kw_only=True)
class Demonstrators:
    """How likely each habit is, from 0 to 1; the oracle has none."""

    idle: float = 0.0
    again: float = 0.0
    """Of each look that another follows."""
    sure: float = 0.0
    """Of each sentence that another follows."""
    shy: float = 0.0
    shy_of: tuple[Family, ...] = FAMILIES
    """Families of questions that shy ones do not answer: whose likeliest answers alone are also right sometimes."""

    def __post_init__(self) -> None:
        check(self, "stage.demonstrators.", idle=SHARE, again=SHARE, sure=SHARE, shy=SHARE)


def demonstrated(question: Question, habits: Demonstrators, rng: random.Random) -> Question:
    """The question as a demonstrator with some of the habits goes about it."""
    if rng.random() < habits.idle:
        return replace(question, steps=(), final_thought="", answer=NO_ANSWER)
    steps = tuple(_looking_again(question, habits.again, rng))
    if question.family in habits.shy_of and rng.random() < habits.shy:
        return replace(question, steps=steps, answer=NO_ANSWER)
    assured = "".join(ASSURANCES[: _times(habits.sure, len(ASSURANCES), rng)])
    return replace(question, steps=steps, final_thought=question.final_thought + assured)


def _looking_again(question: Question, again: float, rng: random.Random) -> Iterator[OracleStep]:
    """The steps with each look as often as it is taken; a crop is cut from the newest of its place."""
    newest, count = [0], 0
    for step in question.steps:
        if step.tool != "zoom":
            yield step
            continue
        look = replace(step, arguments={**step.arguments, "image": newest[step.arguments["image"]]})
        looks = 1 + _times(again, MOST_LOOKS - 1, rng)
        yield from [look] * looks
        count += looks
        newest.append(count)


def _times(likely: float, most: int, rng: random.Random) -> int:
    """How often something is done that is `likely` done once more every time."""
    times = 0
    while times < most and rng.random() < likely:
        times += 1
    return times
