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
    return path if os.path.isfile(path) else None  # noqa: PTH113  Path.is_file raises when the text is too long
