"""Things made ahead of those who take them, a few at a time: a question's picture is drawn while others are played."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """What an iterable gives, with `count` of it ready; made in a thread of its own. One may take at a time."""

    def __init__(self, items: Iterable[T], count: int, maker: ThreadPoolExecutor) -> None:
        self.items, self.maker, self.is_over = iter(items), maker, False
        self.made: deque[Future[T | None]] = deque(self._make() for _ in range(count))

    def take(self) -> T | None:
        """The next, or None when there is none, or all was called off. Raises what making it raised."""
        if self.is_over:
            return None
        self.made.append(self._make())
        return self.made.popleft().result()

    def end(self) -> None:
        """Make no more."""
        self.is_over = True

    def _make(self) -> "Future[T | None]":
        return self.maker.submit(lambda: None if self.is_over else next(self.items, None))


@contextmanager
def made_ahead(items: Iterable[T], count: int) -> Iterator[Ahead[T]]:
    """The items, `count` of them made ahead of those who take them; no more are made after the block."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as maker:
        ahead = Ahead(items, count, maker)
        try:
            yield ahead
        finally:
            ahead.end()
