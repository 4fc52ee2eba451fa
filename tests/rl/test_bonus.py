"""What counts beside a right answer is added to right answers only; what is badly formed costs in any case."""

from dataclasses import replace

import pytest
from played import BUDGET, jobs, whole

from foveate.agent.records import Answer, ImageRecord, Step, Usage
from foveate.models import Thinker
from foveate.models.reasoner import Message
from foveate.rl.bonus import BonusConfig, bonus
from foveate.rl.learner import rewarded
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.rollout import Recorder, Trajectory, rollouts
from foveate.tools.tool import Box

ALL = BonusConfig(evidence=0.2, tool=0.1, format=0.05)


@pytest.fixture(scope="module")
def played(thinker: Thinker) -> list[Trajectory]:
    with rollouts(thinker, at_once=4, budget=BUDGET) as playing:
        return whole(list(playing.play(jobs(4))))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"answer": "x", "saw_evidence": True, "tool_calls": 2, "errors": 0}, 0.3),
        ({"answer": "x", "saw_evidence": False, "tool_calls": 1, "errors": 1}, 0.05),
        ({"answer": "x", "saw_evidence": False, "tool_calls": 0, "errors": 0}, 0.0),
        ({"answer": "y", "saw_evidence": True, "tool_calls": 2, "errors": 2}, -0.1),
    ],
)
def test_what_is_added(played: list[Trajectory], changes: dict[str, object], wanted: float) -> None:
    trajectory = replace(played[0], **changes)  # type: ignore[arg-type]
    assert bonus(trajectory, ALL) == pytest.approx(wanted)
    assert bonus(trajectory, BonusConfig()) == 0


def test_it_is_in_the_reward(played: list[Trajectory]) -> None:
    some = [replace(one, errors=idx, saw_evidence=False, tool_calls=0) for idx, one in enumerate(played)]
    config = PolicyConfig(start="", iterations=1, bonus=ALL)
    rewards = [sample.reward for sample in rewarded(some, "pmd", config, 0.0)]
    assert rewards == pytest.approx([one.right - 0.05 * one.errors for one in some])


@pytest.mark.parametrize(("box", "seen"), [((0, 0, 70, 50), True), ((0, 0, 30, 70), False), ((0, 0, 100, 80), False)])
def test_rollouts_say_what_was_seen_and_what_went_wrong(
    thinker: Thinker, box: Box, seen: bool, conversation: list[Message]
) -> None:
    (job,) = jobs(1)
    job = replace(job, item=replace(job.item, evidence=((10.0, 10.0, 60.0, 30.0),)))
    steps = (Step(kind="error", text="no call"), Step(kind="answer", text="x"))
    images = tuple(
        ImageRecord(sha256=name, width_px=100, height_px=80, original="a", box_px=part)
        for name, part in (("a", (0, 0, 100, 80)), ("b", box))
    )
    answer = Answer(text="x", status="answered", steps=steps, usage=Usage(), images=images)
    with rollouts(thinker, at_once=1) as stage:
        trajectory = stage._trajectory(job, Recorder(stage.reasoner, stage.gate, messages=conversation), answer)
    assert (trajectory.saw_evidence, trajectory.errors) == (seen, 1)
