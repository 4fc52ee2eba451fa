"""The program inside the sandbox: an IPython kernel that caps its own output. Runs as source text after confine.py.

This file must not import anything of Foveate (the package is not visible inside). Capping here keeps a cell that
prints a gigabyte from filling pipes and sockets; the host caps again, because code in the kernel can undo this.
The host adds the call of `start_kernel` behind this text.

The sockets of the kernel listen before this process starts: the host made them, because nothing inside may be able to
put a file where the host could see it.
"""

import contextlib
import gc
import os
import select
import sys
import time
from pathlib import Path
from typing import Any

import zmq
from ipykernel.iostream import OutStream
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import Session

HAND_ON_S = 0.5
"""How long the end of a cell waits for what it has written to descriptors, as programs that it starts do."""
FRAMES = 100
"""Pieces of a traceback that are told; the last ones, where the error is."""


def start_kernel(
    connection_file: str, images: str, listeners: dict[str, int], max_output_chars: int, cut_mark: str
) -> None:
    """Serve cells until the host ends this process. listeners: address to the descriptor that listens there."""
    take_over(listeners)
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
            write_all(stream, f"{text[:room]}\n{cut_mark}\n")
        return len(text)

    send_all = Session.send

    def send_short(session: Session, stream: Any, kind: Any, content: Any = None, *more: Any, **named: Any) -> Any:
        """An error is told in full only where that is short: it comes twice, in messages that must not be too large."""
        if isinstance(content, dict) and "traceback" in content:
            frames = [frame[:max_output_chars] for frame in content["traceback"][-FRAMES:]]
            content = {**content, "evalue": str(content["evalue"])[:max_output_chars], "traceback": frames}
        return send_all(session, stream, kind, content, *more, **named)

    def before_cell(*_: object) -> None:
        nonlocal written
        written = 0
        app.kernel.num_threads = min(app.kernel.num_threads, sum(1 for _ in Path("/proc/self/task").iterdir()))
        for image in Path(images).glob("*.png"):
            with contextlib.suppress(OSError):
                link(work / image.name, image)

    def after_cell(*_: object) -> None:
        """Leave the threads that read what was written to descriptors time to hand it on before the cell is over."""
        deadline = time.monotonic() + HAND_ON_S
        while select.select(pipes, [], [], 0)[0]:
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)
        time.sleep(0.001)  # the last piece has left its pipe, and may still be in its thread's hands

    OutStream.write = write_capped  # type: ignore[method-assign, assignment]
    Session.send = send_short  # type: ignore[method-assign, assignment]
    app = IPKernelApp.instance()
    app.initialize(["-f", connection_file, "--HistoryManager.enabled=False", "--log-level=50"])  # type: ignore[no-untyped-call]
    app.kernel.num_threads = sys.maxsize
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # what is written to descriptors is handed on, and not written there, too:
        os.dup2(nowhere, stream._original_stdstream_copy)  # type: ignore[union-attr]  # noqa: SLF001  nobody reads it
    os.close(nowhere)
    OutStream.fileno = lambda stream: stream._original_stdstream_fd  # type: ignore[method-assign]  # noqa: SLF001
    app.kernel.shell.display_formatter.formatters["image/jpeg"].enabled = False  # a picture comes once, as PNG
    pipes = [stream._fid for stream in (sys.stdout, sys.stderr)]  # type: ignore[union-attr]  # noqa: SLF001
    app.debug_shell_socket.close()  # it would look for the address of the host for ever
    app.kernel.shell.events.register("pre_run_cell", before_cell)
    app.kernel.shell.events.register("post_run_cell", after_cell)
    gc.freeze()  # what is loaded by now stays: collecting garbage, as %reset does, need not look at it
    app.start()  # type: ignore[no-untyped-call]


def link(path: Path, image: Path) -> None:
    """Let a path lead to an image, whatever stood there before; OSError when that cannot be."""
    if not (path.is_symlink() and path.readlink() == image):
        path.unlink(missing_ok=True)
        path.symlink_to(image)


def take_over(listeners: dict[str, int]) -> None:
    """Let sockets that are bound to one of these addresses use its descriptor, and programs started here none."""
    bind = zmq.Socket.bind
    for descriptor in listeners.values():
        os.set_inheritable(descriptor, False)

    def bind_inherited(socket: zmq.Socket[Any], address: str) -> object:
        if address in listeners:
            socket.setsockopt(zmq.USE_FD, listeners[address])
        return bind(socket, address)

    zmq.Socket.bind = bind_inherited  # type: ignore[method-assign, assignment]
