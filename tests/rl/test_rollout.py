"""Rollouts say the same whatever the weather: the same jobs and weights, the same tokens and log-probabilities.

Proved with nano in bf16, whose sums show in which company they were made: turns that begin sooner or later by chance
change no bit, nor do kernels that died between two rollouts. What is drawn is drawn ahead, a few at a time, and what
fails ends the rollouts with its error; who stops listening drops what is in flight.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch
from looking import last_question
from needs import needs_bubblewrap
from played import BUDGET, jobs
from scripted import answer, zoom

from foveate.agent.budget import Budget
from foveate.models import Thinker
from foveate.models.generate import ThinkerReasoner
from foveate.models.reasoner import Message, Sample, StopReason
from foveate.models.tokenizer import TextCodec
from foveate.rl.ahead import made_ahead
from foveate.rl.gate import Gate
from foveate.rl.players import jobs_of
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.rollout import Job, Rollouts, Trajectory, rollouts
from foveate.rl.sampler import SamplerConfig
from foveate.rl.seats import in_order

WEIGHTS = Path(__file__).parents[2] / "models" / "nano" / "weights"


def said_by(codec: TextCodec, text: str) -> Sample:
    """A turn that ended by itself."""
    ids = tuple(codec.encode(text))
    return Sample(text=text, token_ids=ids, logprobs=(-0.1,) * len(ids), stop_reason="stop", prompt_tokens=9)


class Uneven(Gate):
    """A gate at which turns are held up by chance."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        time.sleep(random.random() / 50)
        with super().turn():
            yield


@pytest.fixture(scope="module")
def questions() -> list[Job]:
    families = SamplerConfig(families=("total", "fact"))
    return list(jobs_of(PolicyConfig(start="", iterations=1, prompts=2, samples=2, sampler=families), 0, {}))


@pytest.fixture(scope="module")
def playing() -> Iterator[Rollouts]:
    with rollouts(Thinker.from_pretrained(WEIGHTS, dtype=torch.bfloat16).eval(), at_once=3) as playing:
        yield playing


@pytest.fixture(scope="module")
def before(playing: Rollouts, questions: list[Job]) -> list[Trajectory]:
    return list(playing.play(questions))


def test_what_a_budget_cut_after_its_answer_was_not_ended_by_the_policy(
    playing: Rollouts, questions: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    said, reasons = "<answer>K7</answer> and", tuple[StopReason, ...](("stop", "length"))
    ids = tuple(playing.reasoner.thinker.processor.codec.encode(said))
    trajectories = []
    for reason in reasons:
        sample = Sample(text=said, token_ids=ids, logprobs=(-0.1,) * len(ids), stop_reason=reason, prompt_tokens=9)
        monkeypatch.setattr(type(playing.reasoner), "sample", lambda *_, sample=sample, **__: sample)
        trajectories.append(playing.one(questions[0]))
    ended, cut = trajectories
    assert ended.answer == cut.answer == "K7"
    assert (ended.status, ended.is_whole) == ("answered", True)
    assert (cut.status, cut.is_whole, cut.has_failed) == ("out_of_budget", False, False)


def test_calls_that_failed_are_not_counted(
    playing: Rollouts, questions: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_tool = '<tool_call>{"name":"dance","arguments":{}}</tool_call>'
    turns = [zoom(0, 400, 300, 100, 100), no_tool, zoom(0, 100, 100, 400, 300), answer("K7")]
    codec = playing.reasoner.thinker.processor.codec

    def sample(_: ThinkerReasoner, messages: Sequence[Message], **__: object) -> Sample:
        return said_by(codec, turns[sum(message["role"] == "assistant" for message in messages)])

    monkeypatch.setattr(ThinkerReasoner, "sample", sample)
    trajectory = playing.one(questions[0])
    assert (trajectory.answer, trajectory.tool_calls) == ("K7", 1)


def same_bits(before: list[Trajectory], after: list[Trajectory]) -> bool:
    both = list(zip(before, after, strict=True))
    return all(torch.equal(one.transcript.token_ids, other.transcript.token_ids) for one, other in both) and all(
        torch.equal(one.sampled_S, other.sampled_S) for one, other in both
    )


def test_how_long_a_tool_takes_changes_no_bit(
    playing: Rollouts, questions: list[Job], before: list[Trajectory]
) -> None:
    assert sum(one.tool_calls for one in before) > len(questions)
    playing.reasoner.forget()
    playing.gate = Uneven()
    assert same_bits(before, list(playing.play(questions)))


@needs_bubblewrap
def test_kernels_that_died_are_replaced(playing: Rollouts, questions: list[Job], before: list[Trajectory]) -> None:
    kernels = list(iter(playing.pool.take, None))
    assert kernels
    for kernel in kernels:
        assert kernel._process is not None
        kernel._process.kill()
        kernel._process.wait()
        playing.pool.give_back(kernel)
    playing.reasoner.forget()
    assert same_bits(before, list(playing.play(questions)))


def test_what_fails_ends_the_rollouts(thinker: Thinker) -> None:
    def drawn() -> Iterator[Job]:
        yield from jobs(3)
        raise ValueError("no more ink")

    with rollouts(thinker, at_once=2, budget=BUDGET) as playing:
        with pytest.raises(ValueError, match="no more ink"):
            list(playing.play(drawn()))
        assert len(list(playing.play(jobs(2)))) == 2  # nobody is waited for any more


def test_who_stops_listening_stops_the_rollouts(thinker: Thinker) -> None:
    taken: list[Job] = []

    def noted() -> Iterator[Job]:
        for job in jobs(8) * 4:
            taken.append(job)
            yield job

    with rollouts(thinker, at_once=2, budget=BUDGET) as playing:
        trajectories = playing.play(noted())
        next(iter(trajectories))
        trajectories.close()  # type: ignore[attr-defined]
    assert len(taken) < 32


class Telling(Gate):
    """A gate that tells when no turn begins any more."""

    def __init__(self) -> None:
        super().__init__()
        self.over = Event()

    def end(self) -> None:
        super().end()
        self.over.set()


def test_what_is_in_flight_then_is_dropped_at_its_next_turn(thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, begun, turns, codec = Telling(), Event(), list[int](), thinker.processor.codec

    def sample(reasoner: ThinkerReasoner, messages: Sequence[Message], **_: object) -> Sample:
        question, turn = last_question(messages)
        with reasoner.engine.pace.changed:
            reasoner.engine.pace.come()
        if question == "At once?":
            begun.wait(10)
            return said_by(codec, answer("x"))
        turns.append(turn)
        begun.set()
        gate.over.wait(10)
        return said_by(codec, zoom(0, 100, 100, 400, 300))

    monkeypatch.setattr(ThinkerReasoner, "sample", sample)
    first, *others = jobs(4)
    first = replace(first, item=replace(first.item, question="At once?"))
    with rollouts(thinker, at_once=2, budget=Budget(turns=3)) as playing:
        playing.gate = gate
        trajectories = playing.play([first, *others])
        assert next(iter(trajectories)).answer == "x"
        trajectories.close()  # type: ignore[attr-defined]
    assert set(turns) == {0}


def test_few_are_made_ahead() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(9):
            made.append(number)
            yield number
        raise ValueError("no more numbers")

    with made_ahead(numbers(), 3) as ahead:
        assert [ahead.take(), ahead.take()] == [0, 1]
        ahead.made[-1].result()
        assert made == [0, 1, 2, 3, 4]
        assert [ahead.take() for _ in range(7)] == [2, 3, 4, 5, 6, 7, 8]
        with pytest.raises(ValueError, match="no more numbers"):
            ahead.take()
        assert ahead.take() is None
    with made_ahead(iter(range(9)), 3) as ahead:
        ahead.end()
        assert ahead.take() is None


def test_what_comes_early_waits() -> None:
    assert list(in_order([(2, "c"), (0, "a"), (1, "b"), (3, "d")])) == ["a", "b", "c", "d"]
