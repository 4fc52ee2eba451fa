"""A Jupyter kernel in the sandbox, and the conversation with it.

The kernel is watched through its pid: when it dies, the cell ends at once with KernelLostError and the next cell starts
a new kernel with empty variables. A cell that runs past its time is interrupted, then killed. What comes back is text
and size-capped PNG, read as JSON, never pickle; whatever the kernel sends is untrusted, so sizes are capped on the host
as well and a malformed message ends the kernel. Not limited is how many parts of up to MAX_MESSAGE_BYTES a kernel sends
of one message that it never ends: libzmq keeps them all in our memory until the kernel is closed.

The sockets belong to the thread that runs a cell. Another thread acts on what that thread waits for: `cancel` writes to
an eventfd, `close` kills the process; interrupting the cell and freeing the sockets is left to the thread of the cell.
"""

import contextlib
import os
import secrets
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import zmq
from jupyter_client.session import Session
from PIL import Image

from foveate.errors import KernelLostError, SandboxUnavailableError, ToolError, ToolTimeoutError
from foveate.tools.cell import CellOutput, execute_content, only_calculates, take
from foveate.tools.launch import (
    READABLE,
    SIGNATURE,
    is_alive,
    kill_group,
    launched,
    pidfd_of,
    socket_path,
    writable_folders,
)
from foveate.tools.run_folder import RunFolder, sweep
from foveate.tools.sandbox import SHARED_MEMORY, Limits, Tier, mounts_in, required_tier

START_TIMEOUT_S = 30.0
INTERRUPT_GRACE_S = 2.0
INTERRUPT_RETRY_S = 0.5
"""An interrupt that comes just before the kernel begins with its cell is lost: it is sent again."""
CLOSE_RETRY_S = 0.05
FORGET = """\
import os, shutil, signal
assert len(os.listdir("/proc/self/task")) <= get_ipython().kernel.num_threads, "threads go on"
if {alone}:
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass
for folder in {folders!r}:
    for entry in os.scandir(folder):
        if entry.path in {mounts!r}:
            continue
        shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)
os.chdir({folders!r}[0])
%reset -f
"""
"""A cell that leaves no file and no variable, and fails where a thread of earlier cells or of a library goes on.

Where the kernel is alone with what it has started, it leaves no process either.
"""
END_ALL = r"exec('import os\ntry: os.kill(-1, 9)\nexcept ProcessLookupError: pass', {})"
"""A cell that ends all other processes of its namespace; it leaves no name. One that failed would abort the next."""
MAX_MESSAGE_BYTES = 16 * 2**20
SEND_TIMEOUT_MS = 1000
LONGEST_POLL_S = 3600.0


class Kernel:
    """Runs cells one after the other; variables persist. Starts with the first cell."""

    def __init__(self, *, limits: Limits | None = None, unsafe: bool = False, tier: Tier | None = None) -> None:
        """unsafe: run without a boundary when no sandbox works on this machine. tier: None for the strongest."""
        self.limits = limits or Limits()
        self.unsafe = unsafe
        self.tier = tier
        self._run_folder: RunFolder | None = None
        self._folders: tuple[str, ...] = ()
        """What the kernel may write to, as it sees it, the working folder first."""
        self._in_use = threading.RLock()
        """Held while a cell runs and while the kernel is freed."""
        if not hasattr(os, "eventfd"):
            raise SandboxUnavailableError("code runs on Linux alone, with a Python that has os.eventfd")
        self._cancel_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._cancel_fd)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._end: Callable[[], object] = bool
        """Frees process, sockets and folder; also called at exit and when nobody holds the kernel any more."""
        self.is_fresh = True
        """Whether nothing has run in it since it began, or forgot."""
        self._session = Session()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._shown: dict[int, object] = {}
        """By its number, the name of each image that the code can open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether the kernel's process is alive."""
        process = self._process
        return process is not None and is_alive(process)

    @property
    def folder(self) -> Path | None:
        """Where the host keeps what the kernel reads; None unless one runs."""
        return self._run_folder.path if self._run_folder is not None else None

    def run(self, code: str, *, images: Sequence[Image.Image] = (), timeout_s: float = 30.0) -> CellOutput:
        """Run a cell; it and later ones see the images as image_0.png, image_1.png, ...

        Raises ToolTimeoutError past timeout_s, ToolError after `cancel`, KernelLostError when the kernel died or was
        closed by another thread.
        """
        with self._in_use:
            self._forget_cancel()
            self._start()
            self.is_fresh = False
            if not only_calculates(code):
                self._show(images)
            try:
                request = self._send("shell", "execute_request", execute_content(code))
                return self._collect(request, time.monotonic() + timeout_s, timeout_s)
            except KernelLostError:
                self.close()
                raise
            except ToolError as error:
                raise type(error)(f"{error} {self._interrupt_or_kill()}") from None
            except BaseException:
                self._interrupt_or_kill()
                raise

    def forget(self) -> None:
        """Clear variables, images, files and processes of a kernel that runs, for the next conversation.

        A kernel that cannot be cleared, as one with a thread that goes on, is ended. What was changed inside a module
        stays, a callback that was left there too. Raises as `run` does.
        """
        if not self.is_running:
            return
        with self._in_use:
            alone = len(self._folders) > 1
            if self.run(FORGET.format(folders=self._folders, alone=alone, mounts=mounts_in(SHARED_MEMORY))).error:
                self.close()
            if self.folder is not None:
                for path in (self.folder / "host" / "images").glob("image_*.png"):
                    path.unlink()
                self._shown.clear()
                self.is_fresh = True

    def cancel(self) -> None:
        """Interrupt the cell that runs, if any. Takes no lock: may be called from any thread, at any time."""
        os.eventfd_write(self._cancel_fd, 1)

    def close(self) -> None:
        """End the kernel with everything it started and remove its folders. May be called twice and from any thread."""
        while not self._in_use.acquire(timeout=CLOSE_RETRY_S):
            process = self._process  # a cell runs in another thread, which notices the death and lets go
            if process is not None:
                kill_group(process)
        try:
            self._end()
            if self._run_folder is not None:  # still there when the start failed before there was a process
                self._run_folder.remove()
            self._process, self._run_folder, self._sockets, self.is_fresh = None, None, {}, True
            self._shown.clear()
        finally:
            self._in_use.release()

    def _forget_cancel(self) -> None:
        """Take back a `cancel` that came when no cell ran."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._cancel_fd)

    def _show(self, images: Sequence[Image.Image]) -> None:
        """Write the images that are new where the kernel looks for them.

        Where a turn was taken back a number may come to mean another image; a sequence with `sha256s` tells.
        """
        assert self.folder is not None
        shelf = self.folder / "host" / "images"
        for idx, name in enumerate(getattr(images, "sha256s", range(len(images)))):
            if self._shown.get(idx) != name:
                path = shelf / f"image_{idx}.png"
                part = path.with_suffix(".part")
                images[idx].save(part, "PNG", compress_level=0)
                part.chmod(READABLE)
                part.rename(path)
                self._shown[idx] = name

    def _start(self) -> None:
        """Start the kernel unless it runs; returns when it answers."""
        if self.is_running:
            return
        self.close()
        tier = self.tier or required_tier(unsafe=self.unsafe)
        sweep()
        self._run_folder = RunFolder()
        try:
            self._launch(tier, self._run_folder)
            self._greet(time.monotonic() + START_TIMEOUT_S)
        except KernelLostError as error:
            words = self._last_words()
            self.close()
            raise KernelLostError(f"{error}{words}") from error
        except BaseException:
            self.close()
            raise

    def _launch(self, tier: Tier, folder: RunFolder) -> None:
        """Start the process and connect the sockets."""
        key = secrets.token_hex(32)
        process = launched(tier, folder.path, key, self.limits)
        try:
            self._pidfd = pidfd_of(process.pid)
        except OSError:
            kill_group(process)
            process.wait()
            raise
        self._process = process  # from here on `close` may kill it
        self._folders = writable_folders(tier, folder.path)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._end = weakref.finalize(self, end_kernel, os.getpid(), process, self._pidfd, context, folder)
        self._session = Session(key=key.encode(), signature_scheme=SIGNATURE, check_pid=False)
        for channel, kind in (("shell", zmq.DEALER), ("iopub", zmq.SUB), ("control", zmq.DEALER)):
            self._sockets[channel] = connected(context.socket(kind), socket_path(folder.path, channel))

    def _greet(self, deadline: float, *, heed_cancel: bool = True) -> None:
        """Wait until the kernel answers and its output reaches us."""
        waiting = {"shell", "iopub"}
        while waiting:
            request = self._send("shell", "kernel_info_request", {})
            again = min(deadline, time.monotonic() + 1.0)
            while waiting and time.monotonic() < again:
                for channel, message in self._receive(again, heed_cancel=heed_cancel):
                    if message["parent_header"].get("msg_id") == request:
                        waiting.discard(channel)
            if waiting and time.monotonic() >= deadline:
                raise KernelLostError(f"the kernel did not answer within {START_TIMEOUT_S:g} s of its start; try again")

    def _send(self, channel: str, kind: str, content: dict[str, Any]) -> str:
        """Send a request; its id. Raises KernelLostError where nobody is connected: code may break the connection."""
        message = self._session.msg(kind, content)
        try:
            self._session.send(self._sockets[channel], message)
        except zmq.Again as error:
            raise KernelLostError("the kernel has closed its connection; variables are lost") from error
        return str(message["header"]["msg_id"])

    def _receive(self, deadline: float, *, heed_cancel: bool = True) -> list[tuple[str, dict[str, Any]]]:
        """The messages that are there, waiting for the first; empty at the deadline.

        Raises KernelLostError, and ToolError after `cancel` unless that is not to be heeded.
        """
        poller = zmq.Poller()
        for channel in ("shell", "iopub", "control"):
            poller.register(self._sockets[channel], zmq.POLLIN)
        poller.register(self._pidfd, zmq.POLLIN)
        if heed_cancel:
            poller.register(self._cancel_fd, zmq.POLLIN)
        left_s = min(deadline - time.monotonic(), LONGEST_POLL_S)
        ready = dict(poller.poll(max(0, round(left_s * 1000.0))))
        if self._cancel_fd in ready:
            raise ToolError("the code was cancelled")
        full = [channel for channel in ("iopub", "shell", "control") if self._sockets[channel] in ready]
        found = [(channel, self._decoded(self._sockets[channel].recv_multipart())) for channel in full]
        if not found and self._pidfd in ready:
            raise KernelLostError("the code kernel died; variables are lost, the next cell starts anew")
        return found

    def _decoded(self, frames: list[bytes]) -> dict[str, Any]:
        """A message from its frames; a kernel that sends anything else is lost."""
        try:
            message: dict[str, Any] = self._session.deserialize(self._session.feed_identities(frames)[1])
            if isinstance(message["parent_header"], dict) and isinstance(message["content"], dict):
                return message
            raise ValueError("message has no content")
        except Exception as error:
            name = type(error).__name__
            raise KernelLostError(f"the code kernel sent a broken message ({name}) and was ended; try again") from error

    def _last_words(self) -> str:
        """What the sandbox said on standard error before it ended, one line."""
        if self._process is None or self._process.stderr is None:
            return ""
        os.set_blocking(self._process.stderr.fileno(), False)
        said = (self._process.stderr.read(4096) or b"").decode(errors="replace").strip().splitlines()
        return f" ({said[-1].strip()[:200]})" if said else ""

    def _collect(self, request: str, deadline: float, timeout_s: float) -> CellOutput:
        """Everything that belongs to a request, until the kernel is idle again and has replied."""
        output, waiting, reply = CellOutput(), {"shell", "iopub"}, dict[str, Any]()
        while waiting:
            if "shell" not in waiting and "iopub" in waiting:
                deadline = min(deadline, time.monotonic() + INTERRUPT_GRACE_S)
            messages = self._receive(deadline)
            for channel, message in messages:
                if message["parent_header"].get("msg_id") != request:
                    continue
                finished = channel == "shell" or message["content"].get("execution_state") == "idle"
                if finished:
                    waiting.discard(channel)
                if channel == "shell":
                    reply = message["content"]
                if channel == "iopub":
                    take(message, output)
            late = time.monotonic() >= deadline  # a kernel that never stops to send is late too
            if late and "shell" in waiting:
                raise ToolTimeoutError(f"the code ran longer than {timeout_s:g} s")
            if late and waiting:
                output.write("\n[some output was too large and is missing]\n")
                if reply.get("status") == "error" and reply.get("ename") != "NoneType":  # of what failed to be shown
                    take({"msg_type": "error", "content": reply}, output)
                self._hear_again()
                return output
        return output

    def _hear_again(self, *, heed_cancel: bool = True) -> None:
        """Connect the socket of output anew: ZeroMQ ends the connection over a message that is too large."""
        assert self.folder is not None
        deaf = self._sockets["iopub"]
        self._sockets["iopub"] = connected(deaf.context.socket(zmq.SUB), socket_path(self.folder, "iopub"))
        deaf.close()
        self._greet(time.monotonic() + START_TIMEOUT_S, heed_cancel=heed_cancel)

    def _interrupt_or_kill(self) -> str:
        """Stop the running cell; kill the kernel when it does not come to rest. What was done, in words."""
        deadline = time.monotonic() + INTERRUPT_GRACE_S
        try:
            while time.monotonic() < deadline:
                until = min(deadline, time.monotonic() + INTERRUPT_RETRY_S)
                if self._comes_to_rest(until) and self._is_alone(until):
                    self._hear_again(heed_cancel=False)  # what it had shown before may have been too large
                    return "and was interrupted; variables are kept"
        except KernelLostError:
            pass
        self.close()
        return "and did not stop when interrupted; the kernel was killed, variables are lost"

    def _comes_to_rest(self, deadline: float) -> bool:
        """Interrupt the kernel; whether it answers before the deadline. In turn, so that no interrupt is left over."""
        interrupt = self._send("control", "interrupt_request", {})
        return self._replies("control", interrupt, deadline) and self._replies(
            "shell", self._send("shell", "kernel_info_request", {}), deadline
        )

    def _is_alone(self, deadline: float) -> bool:
        """End what cells have started, which no interrupt reaches, where the kernel may; whether that is done."""
        if len(self._folders) == 1:  # without a namespace of its own
            return True
        return self._replies("shell", self._send("shell", "execute_request", execute_content(END_ALL)), deadline)

    def _replies(self, wanted: str, request: str, deadline: float) -> bool:
        """Whether the reply to a request comes before the deadline; other messages are dropped."""
        while time.monotonic() < deadline:
            for channel, message in self._receive(deadline, heed_cancel=False):
                if channel == wanted and message["parent_header"].get("msg_id") == request:
                    return True
        return False


def connected(socket: "zmq.Socket[bytes]", path: str) -> "zmq.Socket[bytes]":
    """The socket connected to the kernel; a message that is too large ends its connection."""
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.RCVHWM, 256)
    if socket.type == zmq.SUB:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(f"ipc://{path}")
    return socket


def end_kernel(
    owner: int,
    process: "subprocess.Popen[bytes]",
    pidfd: int,
    context: "zmq.Context[zmq.Socket[bytes]]",
    folder: RunFolder,
) -> None:
    """Kill a kernel with everything it started and remove its folder; a fork of its owner leaves both alone.

    In bubblewrap they share a process namespace; else what has made a session of its own goes on.
    """
    if os.getpid() != owner:
        return
    kill_group(process)
    process.wait()
    if process.stderr:
        process.stderr.close()
    os.close(pidfd)
    folder.remove()
    context.destroy(linger=0)
