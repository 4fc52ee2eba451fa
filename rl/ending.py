"""When a run of training ends before its last step: it is told to, or its time is up."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STDOUT, STDERR = 1, 2
STOPPING = b"\nstopping after this step, with a checkpoint; Ctrl-C again stops at once\n"


class Clock:
    """The seconds of a run over all the times that it was gone on with, and whether this time's minutes are up."""

    def __init__(self, rows: Sequence[Mapping[str, float]], max_minutes: float | None) -> None:
        """The rows that the run has logged so far, and its limit from now on."""
        self._before_s = rows[-1]["seconds"] if rows else 0.0
        self._max_minutes = max_minutes
        self._started = time.monotonic()

    def seconds(self) -> float:
        """All of the run's."""
        return self._before_s + time.monotonic() - self._started

    def is_up(self) -> bool:
        """Whether it has gone on longer than it may."""
        return self._max_minutes is not None and time.monotonic() - self._started > 60 * self._max_minutes


@dataclass
class Told:
    """Whether a run has been told to stop. Not an Event: a signal that comes while one is set would wait for itself."""

    stop: bool = False


@contextmanager
def told_to_stop() -> Iterator[Told]:
    """What SIGTERM, SIGHUP or Ctrl-C sets, inside the block; a second Ctrl-C interrupts."""
    told, learner = Told(), os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != learner:  # one that has just been forked, to draw
            return
        again, told.stop = told.stop, True
        if number == signal.SIGINT and again:
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            _leave_terminal()
        if number == signal.SIGINT:
            os.write(STDERR, STOPPING)  # the last thing: whoever reads it may interrupt again

    heeded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        heeded.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in heeded}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """What is written to a terminal that is gone would end the run before it has saved."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (STDOUT, STDERR):
        if os.isatty(stream):
            os.dup2(nowhere, stream)
    os.close(nowhere)
