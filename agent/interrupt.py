"""Ctrl-C while a run goes on: the first asks the run to end, the second ends it by force."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def cancel_on_interrupt(cancel: Callable[[], bool]) -> Iterator[None]:
    """Inside the block the first SIGINT calls `cancel`; the next, or one that found no run, raises KeyboardInterrupt.

    `cancel` runs in a signal handler, so it only sets a flag and says whether anything will heed it. Outside of the
    main thread, where Python delivers no signals, the block does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not cancel():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
