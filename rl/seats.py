"""Conversations side by side: each has a seat, and who has ended with one takes the next.

Results come in the order of what was asked. Where a thinker decodes them in one batch they keep its pace
(foveate.models.pace), so that the same questions and weights give the same tokens however long a tool takes; a model
that runs elsewhere keeps none.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, Queue
from threading import Barrier, Lock
from typing import Any, TypeVar

from foveate.models.generate import ThinkerReasoner
from foveate.models.pace import Pace
from foveate.models.reasoner import Message, Reasoner, Sample
from foveate.rl.ahead import Ahead, made_ahead
from foveate.rl.gate import Gate

J = TypeVar("J")
R = TypeVar("R")
T = TypeVar("T")
HEED_S = 0.5


class NoPace:
    """What stands for a pace where nobody has one: whoever comes first is next."""

    def __init__(self) -> None:
        self._lock = Lock()

    def player(self) -> AbstractContextManager[int]:
        """A number that says nothing."""
        return nullcontext(0)

    def claim(self, _player: int, take: Callable[[], T]) -> T:
        """What `take` gives, one at a time."""
        with self._lock:
            return take()


def pace_of(reasoner: Reasoner) -> Pace | NoPace:
    """That of the engine that decodes for many, or none."""
    return reasoner.engine.pace if isinstance(reasoner, ThinkerReasoner) else NoPace()


@dataclass(eq=False)
class Seated:
    """A reasoner as one seat asks it: for its own turns, while the gate is open."""

    inner: Reasoner
    gate: Gate
    player: int | None = None
    """Its number in the engine's pace."""

    def __post_init__(self) -> None:
        self.name, self.dialect = self.inner.name, self.inner.dialect
        self.image_tokens, self.seen_size = self.inner.image_tokens, self.inner.seen_size

    def sample(self, messages: Sequence[Message], **asked: Any) -> Sample:
        """See Reasoner."""
        pace = pace_of(self.inner)
        with self.gate.turn(), pace.asks(self.player) if isinstance(pace, Pace) else nullcontext():
            return self.inner.sample(messages, **asked)


def seated(items: Iterable[J], seats: int, play: Callable[[J, int], R], reasoner: Reasoner, gate: Gate) -> Iterator[R]:
    """What `play` makes of each item and of the player who has it, in the order of the items, so many at once.

    Items are made as they are taken, in a thread of their own. Who wants no more results ends the gate's turns.
    """
    numbered, ended = enumerate(items), Queue[tuple[int, R] | None]()
    pace, ready = pace_of(reasoner), Barrier(seats)

    def sit(ahead: Ahead[tuple[int, J]]) -> None:
        """Play one item after another until none is left; one says so when all have left."""
        try:
            with pace.player() as player:
                ready.wait()
                while (taken := pace.claim(player, ahead.take)) is not None:
                    ended.put((taken[0], play(taken[1], player)))
        finally:
            ahead.end()
            if ready.wait() == 0:
                ended.put(None)

    with ThreadPoolExecutor(seats, thread_name_prefix="seat") as threads, made_ahead(numbered, seats) as ahead:
        sitting = [threads.submit(sit, ahead) for _ in range(seats)]
        try:
            yield from in_order(iter(partial(_patiently, ended), None))
        except BaseException:  # nobody wants the others any more
            gate.end()
            raise
        for seat in sitting:
            seat.result()


def _patiently(ended: "Queue[T]") -> T:
    """What comes next; an interrupt that comes just before a wait is not heeded until that ends."""
    while True:
        with suppress(Empty):
            return ended.get(timeout=HEED_S)


def in_order(numbered: Iterable[tuple[int, T]]) -> Iterator[T]:
    """What came with a number, from 0 on without gaps, each as soon as those before it have come."""
    early: dict[int, T] = {}
    following = 0
    for number, one in numbered:
        early[number] = one
        while following in early:
            yield early.pop(following)
            following += 1
