"""python: run code in the sandboxed kernel of a run. Variables persist; the images of the run are files.

The kernel starts with the first call and ends with the run. The model reads the printed text and, after an error, the
exception with the failing line; the full output is in the result's details. Of the pictures that a cell shows it sees
one, and is told how many there were.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from foveate.errors import ConfigError
from foveate.tools.sandbox import Limits
from foveate.tools.tool import Tool, ToolResult

if TYPE_CHECKING:
    from foveate.tools.cell import CellOutput
    from foveate.tools.kernel import Kernel


NEW_KERNEL = "(this kernel has just started: variables of earlier code are gone, define them again)"


class PythonTool(Tool):
    """The tool "python". `for_run()` gives each run a kernel of its own; `close()` ends it."""

    def __init__(
        self,
        *,
        timeout_s: float = 30.0,
        max_chars: int = 300,
        limits: Limits | None = None,
        unsafe: bool = False,
    ) -> None:
        """timeout_s and max_chars hold for one call; unsafe accepts a machine without a sandbox.

        max_chars: 300 is what nano was trained to read; a model with more context can be given more.
        """
        if not timeout_s >= 0:
            raise ConfigError(f"got timeout_s {timeout_s}, wanted 0 or more seconds")
        super().__init__(self.run_code, name="python", wants_images=True)
        self.timeout_s, self.max_chars, self.limits, self.unsafe = timeout_s, max_chars, limits, unsafe
        self._kernel: Kernel | None = None

    def run_code(self, images: Sequence[Image.Image], code: str) -> ToolResult:
        """Run Python code and read what it prints. Variables stay; the images are image_0.png, image_1.png, ...

        Args:
            images: The images of this conversation.
            code: The code of one cell. Print what you want to see.
        """
        kernel = self._started()
        is_new = kernel.is_fresh
        output = kernel.run(code, images=images, timeout_s=self.timeout_s)
        details = {"output": output.text, "traceback": output.traceback, "truncated": output.truncated}
        return ToolResult(
            text=shortened(what_is_read(output, is_new=is_new), self.max_chars) or "(no output)",
            image=output.images[-1] if output.images else None,
            failed=bool(output.error),
            details=details,
        )

    def _started(self) -> "Kernel":
        from foveate.tools.kernel import Kernel  # jupyter_client and zmq load only when code runs

        if self._kernel is None:
            self._kernel = Kernel(limits=self.limits, unsafe=self.unsafe)
        return self._kernel

    def for_run(self) -> "PythonTool":
        """The same tool with a kernel of its own."""
        return PythonTool(timeout_s=self.timeout_s, max_chars=self.max_chars, limits=self.limits, unsafe=self.unsafe)

    def cancel(self) -> None:
        """Interrupt the cell that runs; variables are kept unless it does not stop and the kernel must be killed."""
        kernel = self._kernel
        if kernel is not None:
            kernel.cancel()

    def close(self) -> None:
        """End the kernel if it was started; the next call starts a new one."""
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            kernel.close()


def what_is_read(output: "CellOutput", *, is_new: bool) -> str:
    """The text of a cell, its error, and what the model could not know otherwise; is_new: the kernel began with it."""
    parts = [output.text.rstrip()]
    if output.error:
        parts.append(error_line(output))
    if is_new and output.error.startswith("NameError"):
        parts.append(NEW_KERNEL)
    if output.num_images > 1:
        parts.append(f"(picture {len(output.images)} of {output.num_images} is shown)")
    return "\n".join(filter(None, parts))


def error_line(output: "CellOutput") -> str:
    """The exception, with the number of the line of the cell that raised it when the traceback names one."""
    lines = re.findall(r"^-+> (\d+) ", output.traceback, re.MULTILINE)
    return f"line {lines[0]}: {output.error}" if lines else output.error


def shortened(text: str, max_chars: int) -> str:
    """The text itself, or its head and tail with a mark between them, at most max_chars in all."""
    if len(text) <= max_chars:
        return text
    mark = f"\n[{len(text) - max_chars:,} characters left out]\n"
    room = max(0, max_chars - len(mark))
    return text[: room - room // 2] + mark + text[len(text) - room // 2 :]
