"""Lines of JSON in a file, and those that a killed process has written to their end."""

from pathlib import Path


def lines_of(path: Path) -> list[str]:
    """The lines of a file that say something.

    Only a line feed ends one: JSON may hold other characters that `str.splitlines` takes for ends. Raises OSError, and
    UnicodeDecodeError for what is not UTF-8.
    """
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def whole_lines(path: Path) -> bytes:
    """The lines that were written to their end; what a kill left after the last line feed is none. Raises OSError."""
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]
