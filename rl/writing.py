"""Files of a run that are whole or not there: what a disk refuses is told in one line and leaves what was there before.

A file is written beside its name and renamed when it is whole. A line that goes to the end of a file goes there whole,
or what came of it is cut off again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from foveate.errors import CheckpointError


def beside(path: Path) -> Path:
    """Where a file is written before it is whole."""
    return path.with_name(f"{path.name}.new")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Raises CheckpointError, in the block, for what the disk refuses."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path} ({error}); make room, then go on with --resume") from error


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """The name to write to inside the block; it becomes `path` with the block's end. Raises CheckpointError."""
    fresh = beside(path)
    with told(path):
        try:
            yield fresh
            fresh.replace(path)
        except Exception:
            fresh.unlink(missing_ok=True)
            raise


def append(path: Path, text: str) -> None:
    """Add to a file all of a text or nothing. Raises CheckpointError when there is no room for it."""
    with told(path), path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            left = memoryview(text.encode())
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(before)
            raise


def made(folder: Path) -> Path:
    """The folder of a run. Raises CheckpointError when it cannot be one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write into {folder} ({error}); name another folder with --out") from error
    return folder
