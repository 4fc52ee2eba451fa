"""Where conversations wait between their turns while the policy learns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition

from foveate.errors import ModelError


class Gate:
    """Turns begin while it is open; whoever closes it waits for those that have begun."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._open, self._over, self._turns = True, False, 0
        self._ends: list[Callable[[], object]] = []

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A turn inside the block. Raises ModelError when no turn will begin any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._open or self._over)
            if self._over:
                raise ModelError("the rollouts are over; this conversation is dropped")
            self._turns += 1
        try:
            yield
        finally:
            with self._changed:
                self._turns -= 1
                self._changed.notify_all()

    @contextmanager
    def heeded(self, end: Callable[[], object]) -> Iterator[None]:
        """Inside the block `end` is called when no turn will begin any more, so that none goes on either."""
        with self._changed:
            self._ends.append(end)
            is_over = self._over
        try:
            if is_over:
                end()
            yield
        finally:
            with self._changed:
                self._ends.remove(end)

    def open(self) -> None:
        """Let turns begin."""
        self._set(is_open=True)

    def close(self) -> None:
        """Let no turn begin, and wait until none is going on."""
        self._set(is_open=False)
        with self._changed:
            self._changed.wait_for(lambda: self._turns == 0)

    def end(self) -> None:
        """Drop who waits, and tell who heeds it."""
        with self._changed:
            self._over, ends = True, list(self._ends)
            self._changed.notify_all()
        for end in ends:
            end()

    def _set(self, *, is_open: bool) -> None:
        with self._changed:
            self._open = is_open
            self._changed.notify_all()
