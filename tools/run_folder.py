"""Folders in /tmp for what a kernel reads: they go with their kernel, or, where that was killed, with the next one.

Whoever makes a folder holds a lock (flock) on it for as long as the process lives; the system frees the lock however
the process ends. `sweep` removes the folders of this user that nobody holds; it knows them by their mode and the name
that mkdtemp made. Between its making and its lock a folder may be swept away: a maker who loses it so makes another.
"""

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
import threading
import warnings
from pathlib import Path

ROOT = Path("/tmp")  # noqa: S108 - what lies in it is made by mkdtemp
"""Not TMPDIR: the paths of sockets are limited to 107 characters."""
PREFIX = ".foveate-kernel-"
NAME = re.compile(re.escape(PREFIX) + "[a-z0-9_]{8}")
"""What mkdtemp makes of the prefix."""
PRIVATE = 0o700
ATTEMPTS = 20


class RunFolder:
    """A new folder that only this user may enter, held until `remove`."""

    def __init__(self, root: Path = ROOT) -> None:
        """Make the folder in `root`; OSError when that cannot be written or locked."""
        self.path, self._lock_fd = new_folder(root)
        self._removing = threading.Lock()

    def remove(self) -> None:
        """Remove the folder with all that lies in it, then let it go. May be called twice and from any thread."""
        with self._removing:  # who comes second waits: at exit the first may be a thread that ends with the process
            if self._lock_fd >= 0:
                free(self.path, self._lock_fd)
                self._lock_fd = -1


def sweep(root: Path = ROOT) -> None:
    """Remove the folders that processes of this user left behind when they were killed."""
    for path in root.glob(f"{PREFIX}*"):
        lock_fd = held(path) if NAME.fullmatch(path.name) else None
        if lock_fd is not None:
            free(path, lock_fd)


def new_folder(root: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that locks it."""
    for _ in range(ATTEMPTS):
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        lock_fd = held(path)
        if lock_fd is not None:
            return path, lock_fd
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
    raise OSError(f"no new folder in {root} could be locked; let {root} be on a file system that knows flock")


def held(path: Path) -> int | None:
    """A descriptor that locks a folder; None when somebody holds it, and for no folder that is this user's alone."""
    try:
        lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # somebody holds it, or it has just been removed
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(lock_fd)
        is_ours = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & 0o777 == PRIVATE
        if is_ours and os.path.samestat(found, path.lstat()):
            return lock_fd
    os.close(lock_fd)
    return None


def free(folder: Path, lock_fd: int) -> None:
    """Remove a folder that is held, then let it go."""
    remove_tree(folder)
    os.close(lock_fd)


def remove_tree(folder: Path) -> None:
    """Remove a folder, also when code has made parts of it unreadable; warn of what cannot be removed."""
    try:
        for path, names, _ in os.walk(folder):
            for inner in (Path(path, name) for name in names):
                if not inner.is_symlink():
                    inner.chmod(PRIVATE)
        shutil.rmtree(folder)
    except OSError as error:
        if folder.exists():
            warnings.warn(f"{folder} could not be removed ({error}); remove it by hand", RuntimeWarning, stacklevel=2)
