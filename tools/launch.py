"""The process of a kernel: ipykernel behind the boundary, over sockets that the host made.

There is no network inside and no folder of the host that can be written. So the host makes the sockets, in a folder
that nobody else may enter, and hands them over while they listen; code inside can reach no file through them.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

from foveate.tools.cell import CUT_MARK, MAX_OUTPUT_CHARS
from foveate.tools.sandbox import INSIDE, SHARED_MEMORY, Limits, Tier, environment, sandbox_command

PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
"""Every channel of a kernel needs one; the host talks over shell, iopub and control."""
PIDFD_OPEN = 434
"""Its number among the calls of Linux, on all processors."""
SIGNATURE = "hmac-sha256"
OPEN, READABLE = 0o755, 0o644
"""Whatever our umask says: a kernel may have another user id."""


def launched(tier: Tier, folder: Path, key: str, limits: Limits) -> "subprocess.Popen[bytes]":
    """The process of a new kernel, which signs messages with `key`, sees folder/host and serves at `socket_path`."""
    host, work = folder / "host", folder / "work"
    for made in (host, host / "images", work):
        made.mkdir()
        made.chmod(OPEN)
    write_connection(host / "connection.json", folder, key)
    seen, home = host if tier == "unsafe" else INSIDE / "host", writable_folders(tier, folder)[0]
    paths = [socket_path(folder, channel) for channel in PORTS]
    with contextlib.ExitStack() as listening:
        descriptors = {path: listening.enter_context(listener(path)).fileno() for path in paths}
        command = sandbox_command(tier, host, limits, kernel_program(seen, descriptors))
        return _SPAWNER.start(command, home, work, descriptors.values())


def writable_folders(tier: Tier, folder: Path) -> tuple[str, ...]:
    """What a kernel may write to and is to be cleared, as it sees it, the working folder first."""
    return (str(folder / "work"),) if tier == "unsafe" else (str(INSIDE / "work"), *SHARED_MEMORY)


def socket_path(folder: Path, channel: str) -> str:
    """Where a channel listens, named as ipykernel does; at most 107 characters."""
    return f"{folder}/k-{PORTS[channel]}"


def write_connection(path: Path, folder: Path, key: str) -> None:
    """Write the file that tells a kernel its sockets and the key of its messages."""
    ports = {f"{channel}_port": port for channel, port in PORTS.items()}
    connection = {"transport": "ipc", "ip": f"{folder}/k", "key": key, "signature_scheme": SIGNATURE, **ports}
    path.write_text(json.dumps(connection), encoding="utf-8")
    path.chmod(READABLE)


def kernel_program(host: Path, listeners: dict[str, int]) -> str:
    """The program of a kernel that sees its folder as `host`. listeners: path to the descriptor that listens there."""
    arguments = (
        str(host / "connection.json"),
        str(host / "images"),
        {f"ipc://{path}": descriptor for path, descriptor in listeners.items()},
        MAX_OUTPUT_CHARS,
        CUT_MARK,
    )
    program = files("foveate.tools").joinpath("kernel_main.py").read_text(encoding="utf-8")
    return f"{program}\nstart_kernel(*{arguments!r})"


def listener(path: str) -> socket.socket:
    """A local socket that listens at a path, for the kernel to take over."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.bind(path)
    made.listen()
    return made


def spawned(command: list[str], home: str, cwd: Path, inherited: Collection[int]) -> "subprocess.Popen[bytes]":
    """The process of a kernel, cut off from our terminal, environment and standard streams."""
    return subprocess.Popen(
        command,
        env=environment(home),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=tuple(inherited),
    )


class Spawner:
    """The thread that kernels are started from: they die with the one that started them, and this one never ends.

    A fork takes no threads along: its process has a thread of its own.
    """

    def __init__(self) -> None:
        """The thread starts with the first kernel."""
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="foveate-sandbox")

    def start(self, command: list[str], home: str, cwd: Path, inherited: Collection[int]) -> "subprocess.Popen[bytes]":
        """The process of a kernel, as `spawned` makes it."""
        return self._thread.submit(spawned, command, home, cwd, inherited).result()


_SPAWNER = Spawner()


def pidfd_of(pid: int) -> int:
    """A descriptor that tells when a process has ended; some builds of Python lack the call. Raises OSError."""
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    descriptor: int = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_OPEN, pid, 0)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.set_inheritable(descriptor, False)
    return descriptor


def is_alive(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a child of this process runs. One that has ended is not reaped: `kill_group` is still to come."""
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a kernel with the programs of its process group, unless it is reaped: then others may have its number."""
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.killpg(process.pid, signal.SIGKILL)
