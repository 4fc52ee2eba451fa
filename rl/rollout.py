"""Rollouts: many conversations in flight over one thinker, in the very graph that a user runs.

Each conversation is an agent of its own in a thread of its own; the thinker's engine decodes all of them in one batch,
and while one waits for a tool the others go on. What was said is kept token for token: ids as sampled, who wrote each,
log-probabilities at sampling, images as they were seen.

Shape letters: S tokens that the policy wrote.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from foveate.agent.agent import Agent
from foveate.agent.budget import Budget
from foveate.agent.records import Answer, Status
from foveate.models.generate import ThinkerReasoner
from foveate.models.reasoner import Message, Sample
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript
from foveate.rl.gate import Gate
from foveate.rl.pooled import KernelPool, PooledPython
from foveate.rl.report import crop_share
from foveate.rl.reward import is_right
from foveate.rl.suite import Item
from foveate.tools import default_tools


@dataclass(frozen=True, kw_only=True)
class Job:
    """A question to be asked once."""

    item: Item
    group: int
    """The prompt: equal for every time that the same question is asked."""
    seed: int


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
    tool_calls: int
    saw_evidence: bool = False
    """Whether a crop showed what has to be read."""
    errors: int = 0
    """Turns that were neither a call nor an answer."""
    messages: tuple[Message, ...] = ()
    """What was said, with pictures; only kept on request, since pictures are large."""

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return is_right(self.answer, self.job.item.answer, self.job.item.accept)

    @property
    def is_whole(self) -> bool:
        """Whether it came to its own end: what a budget cut says nothing of the policy and leaves the loss."""
        return self.status == "answered" and len(self.sampled_S) > 0


@dataclass(eq=False)
class Recorder:
    """A reasoner that keeps what one conversation said."""

    inner: ThinkerReasoner
    gate: Gate
    messages: list[Message] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.dialect = self.inner.name, self.inner.dialect
        self.image_tokens, self.seen_size = self.inner.image_tokens, self.inner.seen_size

    def sample(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Sample:
        """See Reasoner."""
        with self.gate.turn():
            sample = self.inner.sample(
                messages, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, on_text=on_text,
                should_stop=should_stop,
            )  # fmt: skip
        turn = {"role": "assistant", "content": sample.text, "token_ids": list(sample.token_ids)}
        self.messages = [*messages, turn]
        self.logprobs += sample.logprobs
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
        """One trajectory for each job, in the order of the jobs, of which a few are taken ahead: pictures are large."""
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="rollout") as threads:
            pending: deque[Future[Trajectory]] = deque()
            for job in jobs:
                pending.append(threads.submit(self.one, job))
                if len(pending) >= 2 * self.at_once:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def one(self, job: Job) -> Trajectory:
        """Play a question once, from the first turn to the last."""
        recorder = Recorder(self.reasoner, self.gate)
        tools = [PooledPython(self.pool) if tool.name == "python" else tool for tool in default_tools()]
        with Agent(recorder, tools=tools, budget=self.budget, temperature=self.temperature, seed=job.seed) as agent:
            answer = agent.ask(job.item.question, [job.item.picture])
        return self._trajectory(job, recorder, answer)

    def _trajectory(self, job: Job, recorder: Recorder, answer: Answer) -> Trajectory:
        return Trajectory(
            job=replace(job, item=replace(job.item, picture=Path())),
            transcript=self.reasoner.thinker.processor(recorder.messages),
            sampled_S=torch.tensor(recorder.logprobs),
            answer=answer.text,
            status=answer.status,
            tool_calls=answer.usage.tool_calls,
            saw_evidence=crop_share(answer.images, job.item.evidence) is not None,
            errors=sum(step.kind == "error" for step in answer.steps),
            messages=tuple(recorder.messages) if self.keeps_messages else (),
        )


@contextmanager
def rollouts(
    thinker: Thinker,
    *,
    at_once: int = 16,
    temperature: float = 1.0,
    budget: Budget | None = None,
    keeps_messages: bool = False,
) -> Iterator[Rollouts]:
    """Rollouts with a thinker; its kernels end with the block."""
    pool = KernelPool()
    try:
        yield Rollouts(
            reasoner=ThinkerReasoner(thinker, num_slots=at_once),
            at_once=at_once,
            temperature=temperature,
            budget=budget or Budget(),
            pool=pool,
            keeps_messages=keeps_messages,
        )
    finally:
        pool.close()
