"""The program inside the sandbox: an IPython kernel that caps its own output. Runs as source text after confine.py.

This file must not import anything of Foveate (the package is not visible inside). Capping here keeps a cell that
prints a gigabyte from filling pipes and sockets; the host caps again, because code in the kernel can undo this.
The host adds the call of `start_kernel` behind this text.
"""

import contextlib
import gc
import sys
from pathlib import Path

from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp


def start_kernel(connection_file: str, images: str, max_output_chars: int) -> None:
    """Serve cells until the host ends this process."""
    work = Path.cwd()
    sys.path.insert(0, str(work))
    written = 0
    write_all = OutStream.write

    def write_capped(stream: OutStream, text: str) -> int | None:
        nonlocal written
        room = max_output_chars - written
        written += len(text)
        if len(text) <= room:
            write_all(stream, text)
        elif room >= 0:  # the first text that does not fit, also after one that filled the room exactly
            write_all(stream, text[:room] + "\n[output cut here]\n")
        return len(text)

    def before_cell(*_: object) -> None:
        nonlocal written
        written = 0
        for image in Path(images).glob("*.png"):
            with contextlib.suppress(FileExistsError):
                (work / image.name).symlink_to(image)

    OutStream.write = write_capped  # type: ignore[method-assign, assignment]
    app = IPKernelApp.instance()
    app.initialize(["-f", connection_file, "--HistoryManager.enabled=False", "--log-level=50"])  # type: ignore[no-untyped-call]
    app.kernel.shell.events.register("pre_run_cell", before_cell)
    gc.freeze()  # what is loaded by now stays: collecting garbage, as %reset does, need not look at it
    app.start()  # type: ignore[no-untyped-call]
