"""Paths as people type them."""

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with a leading ~ or ~name replaced by that home; as it is when there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def existing_file(text: str) -> Path | None:
    """The file that a text names; None when there is none, also for text that could not be a name."""
    path = expanded(text)
    return path if is_file(path) else None


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; not for what may not be looked at or could not be a name: Path.is_file raises."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder; not for what may not be looked at, or could not be a name."""
    return os.path.isdir(path)  # noqa: PTH112
