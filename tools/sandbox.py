"""The boundary that model-written code runs behind: the operating system's, never a filter over Python.

One tier so far, bubblewrap. Inside there is no network, no file of the user and no variable of the environment; the
system and this Python are read-only; only a working folder, /tmp and /dev/shm can be written, each in memory and capped
in size. The process loses its user id when Foveate runs as root (bubblewrap alone would keep root's rights over
/proc/sys), and the code in confine.py, which runs first inside, sets limits on memory, processes, files and system
calls.

What it does not do: it trusts the kernel of the host; without a cgroup the memory limit holds per process; and when an
ordinary user runs Foveate, code can put files (capped in size each) into the folder of the sockets, which is removed
with the kernel.
"""

import functools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from foveate.errors import SandboxUnavailableError

Tier = Literal["bubblewrap", "unsafe"]
INSIDE = Path("/sandbox")
"""Inside: work/ (the working folder, in memory), host/ (read-only: connection.json, images/), ipc/ (the sockets)."""
SHARED_MEMORY = ("/dev/shm", "/tmp")
"""Inside, these can be written too."""
SEARCH_PATH = "/usr/bin:/bin:/usr/local/bin"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/fonts", "/etc/localtime")
FIX = "install bubblewrap (Debian, Ubuntu: apt install bubblewrap), or allow unsafe code execution explicitly"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one sandbox may use."""

    memory_bytes: int = 1024 * 2**20
    """Private memory of one process."""
    work_bytes: int = 256 * 2**20
    """Everything in the working folder, and as much in each of SHARED_MEMORY; it lies in memory."""
    file_bytes: int = 256 * 2**20
    processes: int = 64
    """Processes and threads together."""
    open_files: int = 256


def environment(home: str) -> dict[str, str]:
    """The whole environment of the code: nothing comes from the host."""
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
    return {
        "PATH": SEARCH_PATH,
        "HOME": home,
        "USER": "sandbox",
        "LANG": "C.UTF-8",
        "TMPDIR": home,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JUPYTER_PLATFORM_DIRS": "1",
        **one_thread,
    }


def confined_program(limits: Limits, *, drop_to: int | None, body: str) -> list[str]:
    """Command line of this Python that confines itself and then runs the program `body`."""
    confine = files("foveate.tools").joinpath("confine.py").read_text(encoding="utf-8")
    values = (limits.memory_bytes, limits.file_bytes, limits.processes, limits.open_files)
    return [sys.executable, "-I", "-c", f"{confine}\nconfine({drop_to!r}, *{values!r})\ndel confine\n{body}"]


def bubblewrap_command(bwrap: str, host: Path, ipc: Path, limits: Limits, *, as_root: bool) -> list[str]:
    """Command line up to the program: namespaces, mounts, working folder.

    host: folder shown read-only at /sandbox/host. ipc: folder shown writable at /sandbox/ipc, for sockets.
    """
    command = [bwrap, "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    command += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--cap-drop", "ALL"]
    command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if as_root else ["--unshare-user"]
    for name in SYSTEM:
        if Path(name).is_symlink():
            command += ["--symlink", str(Path(name).readlink()), name]
        elif Path(name).is_dir():
            command += ["--ro-bind", name, name]
    for name in (name for name in ETC if Path(name).exists()):
        command += [*parent_folders(Path(name)), "--ro-bind", name, name]
    command += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
    command += ["--dev", "/dev"]
    for name in SHARED_MEMORY:
        command += ["--size", str(limits.work_bytes), "--perms", "1777", "--tmpfs", name]
    for name in python_folders():  # after /tmp: an environment may lie there
        command += [*parent_folders(Path(name)), "--ro-bind", name, name]
    command += parent_folders(INSIDE / "work")
    command += ["--size", str(limits.work_bytes), "--perms", "1777", "--tmpfs", str(INSIDE / "work")]
    command += ["--ro-bind", str(host), str(INSIDE / "host"), "--bind", str(ipc), str(INSIDE / "ipc")]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(INSIDE / "work"), "--"]
    return command


def python_folders() -> list[str]:
    """Folders outside the system that this Python and its packages live in."""
    found = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent}
    outside = {str(path) for path in found if not path.is_relative_to("/usr")}
    return sorted(path for path in outside if not any(path.startswith(f"{other}/") for other in outside))


def mounts_in(folders: Sequence[str]) -> list[str]:
    """What lies in these folders and leads to this Python: an environment may stand in /tmp."""
    inside = [(folder, Path(name)) for folder in folders for name in python_folders()]
    return [
        str(Path(folder, name.relative_to(folder).parts[0])) for folder, name in inside if name.is_relative_to(folder)
    ]


def parent_folders(path: Path) -> list[str]:
    """Arguments that create the folders above a mount point so that everybody may pass."""
    parents = [str(parent) for parent in reversed(path.parents) if str(parent) != "/"]
    return [word for parent in parents for word in ("--perms", "0755", "--dir", parent)]


def unused_uid() -> int:
    """A user id that nobody has: limits on processes count per user, so each sandbox started by root has its own."""
    return random.SystemRandom().randrange(1_900_000_000, 2_000_000_000)


def sandbox_command(tier: Tier, host: Path, ipc: Path, limits: Limits, body: str) -> list[str]:
    """Command line that runs the Python program `body` behind the boundary of a tier."""
    if tier == "unsafe":
        return confined_program(replace(limits, processes=-1), drop_to=None, body=body)  # it would count the user's own
    bwrap, as_root = shutil.which("bwrap", path=SEARCH_PATH) or "bwrap", os.geteuid() == 0
    uid = unused_uid() if as_root else None
    outer = bubblewrap_command(bwrap, host, ipc, limits, as_root=as_root)
    return [*outer, *confined_program(limits, drop_to=uid, body=body)]


PROBE = """
import os, socket, threading
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
inside = (
    refused(lambda: open("/proc/sys/kernel/core_pattern", "r+")),
    refused(lambda: open("/usr/probe", "w")),
    refused(lambda: socket.create_connection(("192.0.2.1", 9), 1)),
    os.geteuid() != 0,
)
open("probe", "w").close()
threading.Thread(target=os.getpid).start()
print("confined" if all(inside) else inside)
"""


def probe(host: Path, ipc: Path) -> str:
    """What a real run in the sandbox says: "confined", or the reason why it does not work."""
    if not shutil.which("bwrap", path=SEARCH_PATH):
        return "bubblewrap is not installed"
    command = sandbox_command("bubblewrap", host, ipc, Limits(), PROBE)
    try:
        run = subprocess.run(
            command,
            env=environment(str(INSIDE / "work")),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = (run.stdout + run.stderr).decode(errors="replace").strip()
    return said or f"bubblewrap ended with status {run.returncode}"


@functools.cache
def probe_result() -> str:
    """The probe's word, found once per process."""
    with tempfile.TemporaryDirectory(prefix="fv-") as folder:
        return probe(Path(folder), Path(folder))


def sandbox_tier() -> Tier | None:
    """The strongest boundary that really works here, or None: then code is refused."""
    return "bubblewrap" if probe_result() == "confined" else None


def required_tier(*, unsafe: bool = False, found: str | None = None) -> Tier:
    """The tier to run code in; SandboxUnavailableError unless one works or the user has accepted none.

    found: the word of `probe_result`, asked for when not given.
    """
    found = probe_result() if found is None else found
    if found == "confined":
        return "bubblewrap"
    if not unsafe:
        raise SandboxUnavailableError(f"no sandbox for code on this machine ({found}); {FIX}")
    return "unsafe"
