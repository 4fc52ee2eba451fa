"""Rollouts: many conversations in flight over one thinker, in the very graph that a user runs.

Each conversation is an agent of its own in a thread of its own; the thinker's engine decodes all of them in one batch,
and while one waits for a tool the others go on. What was said is kept token for token: ids as sampled, who wrote each,
log-probabilities at sampling, images as they were seen.

Shape letters: S tokens that the policy wrote.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.agent.agent import Agent
from foveate.agent.arguments import usual_tools
from foveate.agent.budget import Budget
from foveate.agent.images import ImageStore
from foveate.agent.records import Answer, Status
from foveate.errors import ImageError, ModelError
from foveate.models.generate import ThinkerReasoner
from foveate.models.reasoner import Message, Sample
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript
from foveate.rl.gate import Gate
from foveate.rl.pooled import KernelPool, pooled
from foveate.rl.report import crop_share
from foveate.rl.reward import is_right
from foveate.rl.seats import Seated, seated
from foveate.rl.suite import Item
from foveate.tools import Tool
from foveate.tools.sandbox import told_tier


@dataclass(frozen=True, kw_only=True)
class Job:
    """A question to be asked once."""

    item: Item
    group: int
    """The prompt: equal for every time that the same question is asked."""
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A conversation as it can be replayed and shown."""

    messages: tuple[Message, ...]
    """What the policy was shown and what it said, with pictures."""
    run: Answer
    """Every step, box and count; the last call's result is no message when no turn came after it."""
    pictures: ImageStore
    """Pixels of all that `run` names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """A conversation, and what came of it."""

    job: Job
    """Without its picture, which is in the transcript as it was seen."""
    transcript: Transcript
    sampled_S: Tensor
    """Log-probability of each token that the policy wrote, when it was sampled."""
    answer: str
    status: Status
    reason: str = ""
    """Why it ended when the status is not "answered"."""
    tool_calls: int
    """Those that did what they are for: a call of no tool, or of a box that is none, is not counted."""
    saw_evidence: bool = False
    """Whether a crop showed what has to be read."""
    errors: int = 0
    """Turns that were neither a call nor an answer."""
    record: Record | None = None
    """What a file takes, only kept on request, since pictures are large."""

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        item = self.job.item
        return is_right(self.answer, item.answer, item.accept, item.kind)

    @property
    def is_whole(self) -> bool:
        """See ended_by_itself."""
        return ended_by_itself(self.status, self.sampled_S)

    @property
    def has_failed(self) -> bool:
        """Whether it could not go on: a model without a number, a context that is full, a picture that is broken."""
        return self.status == "error"


@dataclass(eq=False)
class Recorder(Seated):
    """A reasoner that keeps what one conversation said."""

    messages: list[Message] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    is_cut: bool = False
    """Whether a budget or the context cut the last turn."""

    def sample(self, messages: Sequence[Message], **asked: Any) -> Sample:
        """See Reasoner."""
        sample = super().sample(messages, **asked)
        turn = {"role": "assistant", "content": sample.text, "token_ids": list(sample.token_ids)}
        self.messages = [*messages, turn]
        self.logprobs += sample.logprobs
        self.is_cut = sample.stop_reason == "length"
        return sample


@dataclass(kw_only=True, eq=False)
class Rollouts:
    """Plays questions with one thinker, `at_once` conversations at a time."""

    reasoner: ThinkerReasoner
    at_once: int
    temperature: float
    budget: Budget
    pool: KernelPool
    keeps_messages: bool = False
    gate: Gate = field(default_factory=Gate)

    def play(self, jobs: Iterable[Job]) -> Iterator[Trajectory]:
        """One trajectory for each job, in the order of the jobs, which are drawn as they are taken.

        The same jobs and weights give the same trajectories, however long tools take (foveate.models.pace).
        """
        return seated(jobs, self.at_once, self.one, self.reasoner, self.gate)

    def one(self, job: Job, player: int | None = None) -> Trajectory:
        """Play a question once, from the first turn to the last; the engine waits for the player, if one is given."""
        recorder = Recorder(self.reasoner, self.gate, player)
        with (
            Agent(
                recorder, tools=self.tools(), budget=self.budget, temperature=self.temperature, seed=job.seed
            ) as agent,
            self.gate.heeded(agent.cancel),
        ):
            try:
                answer = agent.ask(job.item.question, [job.item.picture])
            except ImageError as error:
                answer = Answer.of_error(str(error))
        if answer.status == "answered" and recorder.is_cut:  # to a user it has answered; to end was not its own doing
            answer = replace(answer, status="out_of_budget", reason="policy_tokens: it went on after its answer")
        trajectory = self._trajectory(job, recorder, answer)
        record = Record(messages=tuple(recorder.messages), run=answer, pictures=agent.store)
        return replace(trajectory, record=record) if self.keeps_messages else trajectory

    def tools(self) -> list[Tool]:
        """Those that an agent gives this thinker, with kernels of the pool."""
        return pooled(usual_tools(self.reasoner.dialect), self.pool)

    def _trajectory(self, job: Job, recorder: Recorder, answer: Answer) -> Trajectory:
        return Trajectory(
            job=replace(job, item=replace(job.item, picture=Path())),
            transcript=self.reasoner.thinker.processor(recorder.messages),
            sampled_S=torch.tensor(recorder.logprobs),
            answer=answer.text,
            status=answer.status,
            reason=answer.reason,
            tool_calls=sum(step.kind == "tool" and not step.failed for step in answer.steps),
            saw_evidence=crop_share(answer.images, job.item.evidence) is not None,
            errors=sum(step.kind == "error" for step in answer.steps),
        )


def ended_by_itself(status: Status, sampled_S: Tensor) -> bool:
    """Whether a conversation came to its own end: what a budget cut says nothing of the policy and leaves the loss."""
    return status == "answered" and len(sampled_S) > 0


def living(trajectories: Iterable[Trajectory]) -> Iterator[Trajectory]:
    """The same, once one has not failed. Raises ModelError with the first reason when all of them have."""
    coming, failed = iter(trajectories), list[Trajectory]()
    for trajectory in coming:
        if not trajectory.has_failed:
            yield from (*failed, trajectory)
            break
        failed.append(trajectory)
    else:
        if failed:
            raise ModelError(f"all {len(failed)} conversations failed, the first one: {failed[0].reason}")
    yield from coming


@contextmanager
def rollouts(
    thinker: Thinker,
    *,
    at_once: int = 16,
    temperature: float = 1.0,
    budget: Budget | None = None,
    keeps_messages: bool = False,
    name: str = "policy",
) -> Iterator[Rollouts]:
    """Rollouts with a thinker; its kernels end with the block.

    Tokens are drawn from all of the policy's distribution, whatever top_k and top_p its checkpoint names: an objective
    takes the log-probabilities for those of what was drawn.
    """
    told_tier()
    pool = KernelPool()
    try:
        yield Rollouts(
            reasoner=ThinkerReasoner(thinker, name=name, num_slots=at_once, truncates=False),
            at_once=at_once,
            temperature=temperature,
            budget=budget or Budget(),
            pool=pool,
            keeps_messages=keeps_messages,
        )
    finally:
        pool.close()
