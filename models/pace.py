"""When a conversation's next turn begins: so many steps after its last, however long its tools took.

What an engine computes for a token depends a little on what it computes beside it, and on whether the tokens before
came one at a time or together. Where many conversations are played, their order must therefore not depend on how fast
each was, or the same seeds would not sample the same tokens. Steps are the clock: a player asks for its next turn
`latency` steps after its last one ended, and the engine waits for it before it goes beyond.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from threading import Condition
from typing import TypeVar

T = TypeVar("T")


class Pace:
    """The clock of an engine, and the players that it waits for. Thread-safe; without players nobody waits."""

    def __init__(self, latency: int = 4) -> None:
        self.latency = latency
        self.now = 0
        self.changed = Condition()
        self._numbers, self._claims = count(), count(1)
        self._asking: ContextVar[int | None] = ContextVar("asking", default=None)
        self._players: dict[int, int] = {}
        """Each with the number of its last claim, of all claims."""
        self._away: dict[int, int] = {}
        """The step at which each player that is not in a turn comes back."""
        self._claiming: dict[int, int] = {}
        self._undecided: set[int] = set()
        """Who is away and may yet claim."""

    @contextmanager
    def player(self) -> Iterator[int]:
        """One more, who comes at once and is waited for until the block ends; gives its number."""
        with self.changed:
            self._players[player := next(self._numbers)] = 0
            self._away[player] = self.now
            self._undecided.add(player)
        try:
            yield player
        finally:
            with self.changed:
                self._players.pop(player, None)
                self._away.pop(player, None)
                self._undecided.discard(player)
                self.changed.notify_all()

    @contextmanager
    def asks(self, player: int | None) -> Iterator[None]:
        """A turn that the thread asks for inside the block is the player's."""
        token = self._asking.set(player)
        try:
            yield
        finally:
            self._asking.reset(token)

    def claim(self, player: int, take: Callable[[], T]) -> T:
        """What `take` gives the player, after all that come back before it have begun a turn, or claim in vain.

        Who was given something is waited for: it may end without a turn, and then claims again before the others.
        """
        with self.changed:
            self._claiming[player] = due = self._away[player]
            self._undecided.discard(player)
            self.changed.notify_all()
            self.changed.wait_for(lambda: (due, player) == self._first_claim() and not self._is_waited_for(due))
            self._players[player] = next(self._claims)
            try:
                taken = take()
                if taken is not None:
                    self._undecided.add(player)
                return taken
            finally:
                del self._claiming[player]
                self.changed.notify_all()

    def come(self) -> tuple[int | None, tuple[int, int]]:
        """Whose turn the thread asks for; the step at which it begins, and its place then; hold `changed`."""
        self.changed.notify_all()
        player = self._asking.get()
        self._undecided.discard(player)
        if player is None:
            return None, (self.now, 0)
        return player, (self._away.pop(player, self.now), self._players.get(player, 0))

    def go(self, player: int | None) -> None:
        """A turn of the player has ended."""
        with self.changed:
            if player in self._players:
                self._away[player] = self.now + self.latency
                self._undecided.add(player)

    def tick(self) -> None:
        """A step is over."""
        with self.changed:
            self.now += 1
            self.changed.notify_all()

    def skip(self, first: int) -> None:
        """Go on to the step at which the next player comes, at most to `first`; hold `changed`."""
        self.now = max(self.now, min([first, *self._away.values()]))

    def all_are_here(self) -> bool:
        """Whether no player is due that is away; hold `changed`."""
        return all(due > self.now for due in self._away.values())

    def _first_claim(self) -> tuple[int, int]:
        return min((due, player) for player, due in self._claiming.items())

    def _is_waited_for(self, due: int) -> bool:
        return any(self._away[player] <= due for player in self._undecided)
