"""SIGTERM and SIGHUP end a command as an error does, so that what it has opened is closed and removed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def unwound_by_signals() -> Iterator[None]:
    """Inside the block the first of these signals raises SystemExit(128 + its number); more are ignored.

    Closing a terminal sends two. A signal that is ignored already (nohup) or handled stays so. Outside of the main
    thread, where Python delivers no signals, the block does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]

    def on_first(number: int, _frame: FrameType | None) -> None:
        for ending in taken:
            signal.signal(ending, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in taken:
        signal.signal(number, on_first)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
