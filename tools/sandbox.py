"""The boundary that model-written code runs behind: the operating system's, never a filter over Python.

One tier so far, bubblewrap. Inside there is no network, no file of the user and no variable of the environment; the
system and this Python are read-only; only a working folder, /tmp and /dev/shm can be written, each in memory and capped
in size. The process loses its user id when Foveate runs as root (bubblewrap alone would keep root's rights over
/proc/sys), and the code in confine.py, which runs first inside, sets limits on memory, processes, files and system
calls.

What it does not do: it trusts the kernel of the host; the memory limit holds per process; and files that are empty have
no cap but the system's, half as many in each of the three folders as the machine has pages (measured: 370,000 files in
8 s took 472 MB of kernel memory; bubblewrap cannot set nr_inodes). Where that matters, start Foveate in a cgroup that
caps all of it together: systemd-run --user --scope -p MemoryMax=8G -p TasksMax=512 foveate ...
"""

import errno
import math
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from foveate.errors import SandboxUnavailableError
from foveate.tools.run_folder import RunFolder

Tier = Literal["bubblewrap", "unsafe"]
INSIDE = Path("/sandbox")
"""Inside: work/ (the working folder, in memory), host/ (read-only: connection.json, images/)."""
SHARED_MEMORY = ("/dev/shm", "/tmp")
"""Inside, these can be written too."""
SEARCH_PATH = "/usr/bin:/bin:/usr/local/bin"
PYTHON = ("bin", "include", "lib", "lib64", "openssl", "pyvenv.cfg", "readline", "share")
"""What a Python and its packages consist of (openssl, readline: pyenv's); other things may lie beside it."""
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
ETC = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/fonts", "/etc/localtime")
ABSENT = "bubblewrap is not installed"
INSTALL = "install bubblewrap (Debian, Ubuntu: apt install bubblewrap)"
PROBE_S = 20.0
SLOW = f"a probe of the sandbox took longer than {PROBE_S:g} s"
NO_FOLDER = "no folder for code: "
PASSES_S = 60.0
"""How long a word of the probe holds that says more of the moment than of the machine."""
SHORT = (os.strerror(errno.EAGAIN), os.strerror(errno.ENOMEM))
"""What a probe says where the machine is short of something, for the moment."""
PERMIT = (
    "let bubblewrap make namespaces (sysctl kernel.unprivileged_userns_clone=1, on Ubuntu also "
    "kernel.apparmor_restrict_unprivileged_userns=0; a container: start it with --privileged)"
)


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


def bubblewrap_command(bwrap: str, host: Path, limits: Limits, *, as_root: bool) -> list[str]:
    """Command line up to the program: namespaces, mounts, working folder. host: shown read-only at /sandbox/host."""
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
    for name in python_paths():  # after /tmp: an environment may lie there
        command += [*parent_folders(Path(name)), "--ro-bind", name, name]
    command += parent_folders(INSIDE / "work")
    command += ["--size", str(limits.work_bytes), "--perms", "1777", "--tmpfs", str(INSIDE / "work")]
    command += ["--ro-bind", str(host), str(INSIDE / "host")]
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(INSIDE / "work"), "--"]
    return command


def python_paths() -> list[str]:
    """Folders and files outside the system that this Python and its packages consist of."""
    prefixes = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parent.parent}
    found = [prefix / name for prefix in prefixes if not prefix.is_relative_to("/usr") for name in PYTHON]
    outside = {str(path) for path in found if path.exists()}
    return sorted(path for path in outside if not any(path.startswith(f"{other}/") for other in outside))


def mounts_in(folders: Sequence[str]) -> list[str]:
    """What lies in these folders and leads to this Python: an environment may stand in /tmp."""
    inside = [(folder, Path(name)) for folder in folders for name in python_paths()]
    return sorted(
        {str(Path(folder, name.relative_to(folder).parts[0])) for folder, name in inside if name.is_relative_to(folder)}
    )


def parent_folders(path: Path) -> list[str]:
    """Arguments that create the folders above a mount point so that everybody may pass."""
    parents = [str(parent) for parent in reversed(path.parents) if str(parent) != "/"]
    return [word for parent in parents for word in ("--perms", "0755", "--dir", parent)]


def unused_uid() -> int:
    """A user id that nobody has: limits on processes count per user, so each sandbox started by root has its own."""
    return random.SystemRandom().randrange(1_900_000_000, 2_000_000_000)


def sandbox_command(tier: Tier, host: Path, limits: Limits, body: str) -> list[str]:
    """Command line that runs the Python program `body` behind the boundary of a tier."""
    if tier == "unsafe":
        return confined_program(replace(limits, processes=-1), drop_to=None, body=body)  # it would count the user's own
    bwrap, as_root = shutil.which("bwrap", path=SEARCH_PATH) or "bwrap", os.geteuid() == 0
    uid = unused_uid() if as_root else None
    outer = bubblewrap_command(bwrap, host, limits, as_root=as_root)
    return [*outer, *confined_program(limits, drop_to=uid, body=body)]


UNSEEN = "the sandbox does not see "
PROBE = """
import importlib.util, os, socket, threading
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
inside = {
    "switches of the system": refused(lambda: open("/proc/sys/kernel/core_pattern", "r+")),
    "system files": refused(lambda: open("/usr/probe", "w")),
    "the network": refused(lambda: socket.create_connection(("192.0.2.1", 9), 1)),
    "the network of the host": os.readlink("/proc/self/ns/net") != network_of_host,
    "root": os.geteuid() != 0,
}
open("probe", "w").close()
threading.Thread(target=os.getpid).start()
reached = ", ".join(name for name, holds in inside.items() if not holds)
unseen = ", ".join(name for name in ("ipykernel", "zmq") if importlib.util.find_spec(name) is None)
said = f"{unseen_by}{unseen}" if unseen else "confined"
print(f"code in bubblewrap reached {reached}" if reached else said)
"""
"""The host writes what it knows as `network_of_host`, and its words as `unseen_by`, in front."""


def probe(host: Path) -> str:
    """What a real run in the sandbox says: "confined", or the reason why it does not work."""
    if not shutil.which("bwrap", path=SEARCH_PATH):
        return ABSENT
    try:
        network = str(Path("/proc/self/ns/net").readlink())
        program = f"network_of_host, unseen_by = {network!r}, {UNSEEN!r}{PROBE}"
        command = sandbox_command("bubblewrap", host, Limits(), program)
        run = subprocess.run(
            command,
            env=environment(str(INSIDE / "work")),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return SLOW
    except OSError as error:
        return str(error)
    said = (run.stdout + run.stderr).decode(errors="replace").strip().splitlines()
    return said[-1][:300] if said else f"bubblewrap ended with status {run.returncode}"


class _Probed:
    """The probe's word, asked for when it is first wanted: it holds as long as the process, or for a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Ask anew the next time."""
        self._word, self._until = "", -math.inf

    def __call__(self) -> str:
        """See `probe`; whoever comes meanwhile waits."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._word = _probed()
                passes = self._word == SLOW or self._word.startswith(NO_FOLDER) or any(map(self._word.count, SHORT))
                self._until = time.monotonic() + PASSES_S if passes else math.inf
            return self._word


def _probed() -> str:
    try:
        folder = RunFolder()
    except OSError as error:
        return f"{NO_FOLDER}{error}"
    try:
        return probe(folder.path)
    finally:
        folder.remove()


probe_result = _Probed()


def sandbox_tier() -> Tier | None:
    """The strongest boundary that really works here, or None: then code is refused."""
    return _tier(probe_result())


def told_tier() -> Tier | None:
    """The same for who counts answers: where it is None, a line on stderr says that those which need code are lost."""
    found = probe_result()
    if _tier(found) is None:
        print(f"foveate: python calls fail: {refusal(found)}", file=sys.stderr)
    return _tier(found)


def _tier(found: str) -> Tier | None:
    return "bubblewrap" if found == "confined" else None


def required_tier(*, unsafe: bool = False, found: str | None = None) -> Tier:
    """The tier to run code in; SandboxUnavailableError unless one works or the user has accepted none.

    found: the word of `probe_result`, asked for when not given.
    """
    found = probe_result() if found is None else found
    if found == "confined":
        return "bubblewrap"
    if not unsafe:
        raise SandboxUnavailableError(refusal(found))
    return "unsafe"


def refusal(found: str) -> str:
    """Why code is not run, after that word of the probe, and what to do."""
    return f"no sandbox for code on this machine ({found}); {advice(found)}, or allow unsafe code execution explicitly"


def advice(found: str) -> str:
    """What to do about the word of a probe that did not find the code confined."""
    if found == ABSENT:
        return INSTALL
    if found.startswith(NO_FOLDER):
        return "let /tmp be writable, with some room"
    if found == SLOW or any(sign in found for sign in SHORT):
        return "ask again when the machine has less to do"
    if found.startswith(UNSEEN):
        return "install Foveate into a virtual environment, all of it, where everybody may read"
    return PERMIT if found.startswith("bwrap: ") else "update bubblewrap and the kernel of the system"
