"""A question under way: the thread that works on it, the events that come of it, and how it ends."""

import _thread
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Self

from langchain_core.runnables.config import var_child_runnable_config

from foveate.agent.records import Event, RunDone
from foveate.errors import ToolError, named_line
from foveate.tools.tool import CANCEL_AGAIN_S, Tool, told_when_broken

CLOSE_PATIENCE_S = 5.0
"""How long a closing agent, or one that is interrupted by force, waits for a run; a cell that cannot be interrupted is
killed before.
"""


@dataclass
class Run:
    """A question under way. The flags are plain attributes: a signal handler may set them without taking a lock."""

    thread: str | None
    tools: tuple[Tool, ...]
    cancelled: bool = False
    abandoned: bool = False
    """Nobody will ask for its events any more."""
    events: "queue.Queue[Event | BaseException]" = field(default_factory=queue.Queue)
    """Not a SimpleQueue: its `get` waits for ever when a signal comes as its time ends (CPython 3.11)."""
    worker: threading.Thread = field(default_factory=threading.Thread)

    def next_event(self) -> Event | BaseException:
        """Wait for it. The cancel of a signal handler only sets the flag: the tools are told from here."""
        while True:
            try:
                return self.events.get(timeout=CANCEL_AGAIN_S)
            except queue.Empty:
                if self.cancelled:
                    self._cancel_tools()

    def end(self, patience_s: float = math.inf) -> None:
        """Cancel it and wait for its end. A call may begin just after its tool was told, so it is told again."""
        self.cancelled = True
        start = time.monotonic()
        while self.worker.is_alive() and time.monotonic() - start < patience_s:
            self.worker.join(CANCEL_AGAIN_S)
            if self.worker.is_alive():
                self._cancel_tools()

    def _cancel_tools(self) -> None:
        for tool in self.tools:
            with told_when_broken(tool):
                tool.cancel()


class EventStream(Iterator[Event]):
    """The events of a run, the last of which is RunDone. The run begins with the first one that is asked for.

    Closing it, or dropping it, cancels the run.
    """

    def __init__(self, begin: Callable[[], Run]) -> None:
        self._begin = begin
        self._run: Run | None = None
        self._is_cancelled = self._is_over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._is_over:
            raise StopIteration
        is_last, patience_s = True, math.inf
        try:
            if self._run is None:
                self._run = self._begin()
                self._run.cancelled |= self._is_cancelled
                if self._is_over:  # closed meanwhile, by another thread
                    raise StopIteration
            event = self._run.next_event()
            if isinstance(event, BaseException):
                raise event
            is_last = isinstance(event, RunDone)
        except (KeyboardInterrupt, SystemExit):  # by force
            patience_s = CLOSE_PATIENCE_S
            raise
        finally:
            if is_last:
                self._end(patience_s)
        return event

    def cancel(self) -> None:
        """End the run at its next token or call, and do not wait: its events go on up to RunDone, "cancelled".

        Takes no lock: may be called from any thread, a signal handler and an event loop.
        """
        self._is_cancelled = True
        if self._run is not None:
            self._run.cancelled = True

    def close(self) -> None:
        """Cancel the run and wait for its end; no more events come. Who did so before waits no more."""
        if not self._is_over:  # who was interrupted by force has waited
            self._end(math.inf)

    def _end(self, patience_s: float) -> None:
        self._is_over = True
        if self._run is not None:
            self._run.end(patience_s)

    def __del__(self) -> None:
        """Cancel a run that nobody looks at any more, without a wait.

        Garbage may be collected in any thread, in the middle of anything, with any lock held, so nothing is waited for
        here, and the thread that does it is started by the call that takes no lock itself.
        """
        run = self._run
        if run is not None and not self._is_over:
            run.abandoned = run.cancelled = True
            with suppress(RuntimeError):  # no thread begins any more as the process ends
                _thread.start_new_thread(run.end, ())


def context_of_caller() -> Context:
    """What tools and models read of the context variables of who asks: the ids of a request, of a trace.

    But for LangGraph's: an agent that a node of another graph asks is no part of that graph, nor is a graph that a tool
    of an agent asks a part of the agent's.
    """
    context = copy_context()
    context.run(var_child_runnable_config.set, None)
    return context


def opened_for_run(tools: Iterable[Tool]) -> tuple[Tool, ...]:
    """Each as a run has it. Raises ToolError, with those closed that were open already, for one that cannot be had."""
    opened = list[Tool]()
    for tool in tools:
        try:
            opened.append(tool.for_run())
        except Exception as error:
            close_all(opened)
            raise ToolError(f"the tool {tool.name!r} cannot be opened: {named_line(error)}") from error
    return tuple(opened)


def close_all(tools: Iterable[Tool]) -> None:
    """Close each; what goes wrong with one is told and keeps none of the others open."""
    for tool in tools:
        with told_when_broken(tool):
            tool.close()
