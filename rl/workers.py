"""Share a list of questions among processes and hand their results back in the order of the list.

A worker is started anew rather than forked (torch and its threads do not survive a fork) and takes every `workers`-th
question. An error in a worker is raised here; a worker that dies raises ModelError. Leaving the context ends the
workers whatever they do.
"""

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from foveate.errors import ModelError

R = TypeVar("R")
J = TypeVar("J")
Answering = Callable[[J, str | Path, Sequence[int]], Iterator[R]]
"""A function of a module: job, model, numbers -> one result for each number."""
POLL_S = 1.0


@contextmanager
def spread(
    answering: Answering[J, R], job: J, model: str | Path, idxs: Sequence[int], workers: int
) -> Iterator[Iterator[R]]:
    """Results of `answering` for every number in `idxs`, computed by `workers` processes; all of it is pickled."""
    context = multiprocessing.get_context("spawn")
    inbox = context.Queue()
    shares = [idxs[which::workers] for which in range(min(workers, len(idxs)))]
    crew = [context.Process(target=work, args=(answering, job, model, share, inbox), daemon=True) for share in shares]
    with left_to_us():
        for process in crew:
            process.start()
    try:
        yield in_order(idxs, inbox, crew)
    finally:
        for process in crew:
            process.terminate()
            process.join()


@contextmanager
def left_to_us() -> Iterator[None]:
    """A Ctrl-C, which a terminal sends to all, does not reach processes that are started in the block: we end them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def work(answering: Answering[J, R], job: J, model: str | Path, idxs: Sequence[int], inbox: Any) -> None:
    """What a worker does: put (number, result) for each of its questions into the queue, or (-1, error) and stop."""
    try:
        for idx, result in zip(idxs, answering(job, model, idxs), strict=True):
            inbox.put((idx, result))
    except Exception as error:  # noqa: BLE001 - the parent raises it
        inbox.put((-1, error))


def in_order(idxs: Sequence[int], inbox: Any, crew: Sequence[BaseProcess]) -> Iterator[Any]:
    """Results from the queue in the order of `idxs`; those that come early wait."""
    early: dict[int, Any] = {}
    for idx in idxs:
        while idx not in early:
            number, result = _next(inbox, crew)
            if isinstance(result, Exception):
                raise result
            early[number] = result
        yield early.pop(idx)


def _next(inbox: Any, crew: Sequence[BaseProcess]) -> tuple[int, Any]:
    """The next message; ModelError when none can come any more."""
    while True:
        try:
            message: tuple[int, Any] = inbox.get(timeout=POLL_S)
        except queue.Empty:
            codes = [process.exitcode for process in crew]
            if any(codes) or None not in codes:
                raise ModelError(f"a worker of the evaluation died (exit codes {codes}); try fewer workers") from None
        else:
            return message
