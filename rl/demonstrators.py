"""Demonstrators that are not the oracle: what a policy learns from when its cold start shall leave room to improve.

People who show how a question is answered know more than who imitates them, and say more than they must. Both are
drawn here from an oracle's question:

    hasty    gives the right answer at once, which nobody can read at first view: who imitates that guesses
    restate  says the question again in every thought
    again    looks at each place twice
    aloud    says what was read once more before the answer

A hasty one has no other habit; the others are drawn one by one, so that samples of one prompt differ in length.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from foveate.rl.tasks.scene import OracleStep, Question

AT_A_GLANCE = "I see it at a glance."
AGAIN = "I look again."
CHECKED = "Once more:"


@dataclass(frozen=True, kw_only=True)
class Demonstrators:
    """How likely each habit is, from 0 to 1; the oracle has none."""

    hasty: float = 0.0
    restate: float = 0.0
    again: float = 0.0
    aloud: float = 0.0


def demonstrated(question: Question, habits: Demonstrators, rng: random.Random) -> Question:
    """The question as a demonstrator with some of the habits answers it."""
    if rng.random() < habits.hasty:
        return replace(question, steps=(), final_thought=AT_A_GLANCE)
    if rng.random() < habits.aloud:
        question = replace(question, final_thought=_said_again(question))
    if rng.random() < habits.again:
        question = replace(question, steps=_looking_twice(question.steps))
    if rng.random() < habits.restate:
        steps = tuple(replace(step, thought=_joined(question.text, step.thought)) for step in question.steps)
        question = replace(question, steps=steps, final_thought=_joined(question.text, question.final_thought))
    return question


def _said_again(question: Question) -> str:
    """The final thought after a repetition of what the oracle had said when it had looked."""
    read = [step.thought for step in question.steps[1:]]
    return _joined(question.final_thought, CHECKED, *read, question.final_thought)


def _looking_twice(steps: Sequence[OracleStep]) -> tuple[OracleStep, ...]:
    """Each look followed by the same look; crops are cut from the second of a place."""
    twice: list[OracleStep] = []
    for step in steps:
        if step.tool == "zoom":
            look = replace(step, arguments={**step.arguments, "image": 2 * step.arguments["image"]})
            twice += [look, replace(look, thought=AGAIN)]
        else:
            twice.append(step)
    return tuple(twice)


def _joined(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)
