"""Questions for rollouts of the tiny thinker, and conversations that came to an end."""

from copy import deepcopy
from dataclasses import replace

from pictures import noise

from foveate.agent.budget import Budget
from foveate.models import Thinker
from foveate.rl.rollout import Job, Trajectory
from foveate.rl.suite import Item

BUDGET = Budget(turns=3, policy_tokens=40)
LONG = {"turns": 2, "policy_tokens": 400}
"""Enough for turns of `unsure` to end now and then."""


def unsure(thinker: Thinker) -> Thinker:
    """One that hardly knows what to say, so that its turns end now and then and a policy learns from them."""
    start = deepcopy(thinker)
    start.decoder.norm.weight.mul_(0.1)
    return start


def jobs(count: int) -> list[Job]:
    items = [
        Item(id=f"q{idx}", family="label", question="What is it?", answer="x", picture=noise(100 + 30 * idx, 80, idx))
        for idx in range(2)
    ]
    return [Job(item=items[idx % 2], group=idx % 2, seed=idx) for idx in range(count)]


def whole(played: list[Trajectory]) -> list[Trajectory]:
    """The same, each with an end of its own; every second one right."""
    answers = ["x" if idx in (0, 3) else "y" for idx in range(len(played))]
    return [replace(t, answer=answer, status="answered") for t, answer in zip(played, answers, strict=True)]
