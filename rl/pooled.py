"""The python tool for many short conversations: kernels go back into a pool, cleared of who had them.

Starting a kernel takes longer than most conversations of nano do. The sandbox is the one of every run.
"""

import queue
from collections.abc import Sequence
from dataclasses import dataclass, field

from foveate.errors import ToolError
from foveate.tools.kernel import Kernel
from foveate.tools.python import PythonTool
from foveate.tools.tool import Tool


@dataclass
class KernelPool:
    """Kernels that nobody uses."""

    idle: "queue.SimpleQueue[Kernel]" = field(default_factory=queue.SimpleQueue)

    def take(self) -> Kernel | None:
        """One of them, or None."""
        try:
            return self.idle.get_nowait()
        except queue.Empty:
            return None

    def give_back(self, kernel: Kernel) -> None:
        """Take a kernel in, cleared; one that cannot be cleared is ended."""
        try:
            kernel.forget()
        except ToolError:
            kernel.close()
            return
        self.idle.put(kernel)

    def close(self) -> None:
        """End all that are idle."""
        while (kernel := self.take()) is not None:
            kernel.close()


def pooled(tools: Sequence[Tool], pool: KernelPool) -> list[Tool]:
    """The same tools, python with kernels of a pool."""
    return [PooledPython(pool, tool) if isinstance(tool, PythonTool) else tool for tool in tools]


class PooledPython(PythonTool):
    """The tool "python" with kernels from a pool."""

    def __init__(self, pool: KernelPool, like: PythonTool | None = None) -> None:
        """A tool that tells as much and allows as much as another, or as the usual one; all of a pool allow alike."""
        like = like or PythonTool()
        super().__init__(timeout_s=like.timeout_s, max_chars=like.max_chars, limits=like.limits, unsafe=like.unsafe)
        self.pool = pool

    def _started(self) -> Kernel:
        self._kernel = self._kernel or self.pool.take()
        return super()._started()

    def for_run(self) -> "PooledPython":
        """The same tool with a kernel of the pool."""
        return PooledPython(self.pool, self)

    def close(self) -> None:
        """Give the kernel back."""
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            self.pool.give_back(kernel)
