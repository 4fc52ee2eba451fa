"""Values by key, those that were used last: as many as fit into so many bytes, and the newest whatever its size."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_REMEMBERING = Lock()
"""Of all: one with a lock of its own could not be copied with what it belongs to."""


class Recent(Generic[K, V]):
    """Safe to use from many threads; iterates over its keys, the one used longest ago first."""

    def __init__(self, room_bytes: float, bytes_of: Callable[[V], int]) -> None:
        """`bytes_of` tells how much memory a value takes."""
        self.room_bytes, self.bytes_of = room_bytes, bytes_of
        self.held_bytes = 0
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value of a key, which has now been used last; None when it is not here any more."""
        with _REMEMBERING:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Remember a value; what was used longest ago makes room. One that is here already stays."""
        with _REMEMBERING:
            if key not in self._values:
                self._values[key] = value
                self.held_bytes += self.bytes_of(value)
            self._values.move_to_end(key)
            while self.held_bytes > self.room_bytes and len(self._values) > 1:
                self.held_bytes -= self.bytes_of(self._values.popitem(last=False)[1])

    def clear(self) -> None:
        """Remember nothing."""
        with _REMEMBERING:
            self._values.clear()
            self.held_bytes = 0

    def values(self) -> list[V]:
        """All that is here."""
        with _REMEMBERING:
            return list(self._values.values())

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        with _REMEMBERING:
            return key in self._values

    def __iter__(self) -> Iterator[K]:
        with _REMEMBERING:
            return iter(list(self._values))
