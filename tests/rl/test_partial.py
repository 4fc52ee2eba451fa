"""Partial rollouts: the last questions of an iteration wait at a gate and end in the next one, whole and once.

Proved with conversations that end when the test lets them, and with the tiny thinker: every sample comes out once, with
its question; nobody begins a turn while the gate is closed; what a conversation said before and after keeps the
log-probabilities that it was sampled with; who is left at the end of the block is dropped.
"""

import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from played import BUDGET, jobs

from foveate.errors import ModelError
from foveate.models import Thinker
from foveate.rl.gate import Gate
from foveate.rl.logprobs import written_logprobs
from foveate.rl.partial import partial_rollouts
from foveate.rl.rollout import Job, rollouts


class Stage:
    """Conversations of two turns; those of a held question begin their second turn when it is let go."""

    at_once = 4

    def __init__(self, held: int) -> None:
        self.gate, self.held, self.let_go, self.turns = Gate(), held, threading.Event(), Counter[int]()

    def one(self, job: Job) -> Any:
        for turn in range(2):
            if turn and job.group == self.held:
                self.let_go.wait(20)
            with self.gate.turn():
                self.turns[job.group] += 1
        return SimpleNamespace(job=job)


def asked(*groups: int) -> list[Job]:
    return [replace(jobs(1)[0], group=group, seed=seed) for group in groups for seed in range(2)]


def test_the_last_question_ends_in_the_next_iteration() -> None:
    stage = Stage(held=1)
    with partial_rollouts(stage) as partial:  # type: ignore[arg-type]
        first = partial.play(asked(0, 1, 2), most_left=1)
        assert [one.job.group for one in first] == [0, 0, 2, 2]
        stage.let_go.set()
        with pytest.raises(TimeoutError):
            next(iter(partial.flying)).result(0.2)  # it waits at the gate
        assert stage.turns[1] == 2
        second = partial.play(asked(3), most_left=0)
        assert [one.job.group for one in second] == [1, 1, 3, 3]
        assert not partial.flying
        assert not partial.ended


def test_who_is_left_is_dropped() -> None:
    stage = Stage(held=0)
    with partial_rollouts(stage) as partial:  # type: ignore[arg-type]
        assert partial.play(asked(0), most_left=1) == []
        left = list(partial.flying)
        stage.let_go.set()
    for future in left:
        with pytest.raises(ModelError, match="the rollouts are over"):
            future.result(5)


def test_a_closed_gate_has_waited_for_the_turns_that_had_begun() -> None:
    gate, begun, end = Gate(), threading.Event(), threading.Event()

    def turn() -> None:
        with gate.turn():
            begun.set()
            end.wait(5)

    threads = [threading.Thread(target=turn), threading.Thread(target=gate.close)]
    threads[0].start()
    begun.wait(5)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive()
    end.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_every_sample_comes_once_with_what_it_was_sampled_with(thinker: Thinker) -> None:
    wanted = [replace(job, group=idx // 2) for idx, job in enumerate(jobs(12))]
    with rollouts(thinker, at_once=3, budget=BUDGET) as stage, partial_rollouts(stage) as partial:
        parts = [partial.play(wanted[:6], most_left=2), partial.play(wanted[6:], most_left=0)]
        stage.reasoner.forget()
    assert len(parts[0]) in (2, 4, 6)
    played = [one for part in parts for one in part]
    assert Counter(one.job.group for one in played) == dict.fromkeys(range(6), 2)
    for one in played:
        torch.testing.assert_close(written_logprobs(thinker, one.transcript), one.sampled_S, atol=1e-5, rtol=0)
