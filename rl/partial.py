"""Partial rollouts (Kimi k1.5, section 2.6.2): the longest conversations of an iteration do not hold up the policy.

When all but a few questions have been answered by all their samples, those that are left stop before their next turn,
the policy learns from the others, and they go on in the next iteration, with the new weights and the ids as they were
sampled. What they had said keeps the log-probabilities of the weights that said it. They end in that iteration, so no
turn is more than one iteration old.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from foveate.rl.rollout import Job, Rollouts, Trajectory


class PartialRollouts:
    """Rollouts whose last questions may wait for the next iteration."""

    def __init__(self, stage: Rollouts, threads: ThreadPoolExecutor) -> None:
        self.stage, self.threads = stage, threads
        self.flying: dict[Future[Trajectory], Job] = {}
        self.ended: dict[int, list[Trajectory]] = defaultdict(list)
        """By question, of those that were not handed out yet."""

    def play(self, jobs: Iterable[Job], most_left: int) -> list[Trajectory]:
        """Trajectories of whole questions, in their order; at most `most_left` of these jobs' questions go on later.

        Those that went on before come to their end. No two questions may have one number.
        """
        self.stage.gate.open()
        before = self._unanswered()
        for job in jobs:
            self.flying[self.threads.submit(self.stage.one, job)] = job
            while len(self.flying) >= 2 * self.stage.at_once:
                self._collect()
        while self._unanswered() & before or len(self._unanswered()) > most_left:
            self._collect()
        self.stage.gate.close()
        whole = sorted(set(self.ended) - self._unanswered())
        return [trajectory for group in whole for trajectory in self.ended.pop(group)]

    def _unanswered(self) -> set[int]:
        return {job.group for job in self.flying.values()}

    def _collect(self) -> None:
        """Wait until some have ended."""
        for future in wait(self.flying, return_when=FIRST_COMPLETED).done:
            self.ended[self.flying.pop(future).group].append(future.result())


@contextmanager
def partial_rollouts(stage: Rollouts) -> Iterator[PartialRollouts]:
    """Partial rollouts with these; who has not ended with the block is dropped."""
    threads = ThreadPoolExecutor(stage.at_once, thread_name_prefix="rollout")
    try:
        yield PartialRollouts(stage, threads)
    finally:
        stage.gate.end()
        threads.shutdown(cancel_futures=True)
