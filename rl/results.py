"""The file that `foveate eval --out` writes: a line for each question in the order of the suite, whole or not there."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EISDIR
from pathlib import Path

from foveate.errors import InputError
from foveate.paths import is_file
from foveate.rl.lines import whole_lines
from foveate.rl.report import Result
from foveate.rl.writing import append

HEAD = re.compile(rb'\{"schema_version": \d+, "id": ')
"""What every line begins with, of whatever version; rollouts, reports and conversations begin otherwise."""
HEAD_BEGINS, HEAD_BYTES = b'{"schema_version": ', 40


def check_writable(path: Path) -> None:
    """Raises InputError unless results can be written to the file; makes its folder."""
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))


def refuse_foreign(path: Path) -> None:
    """Raises InputError for a file that holds anything but results: it would be written over.

    What a kill left of a first line is none of them.
    """
    if not is_file(path):
        return
    with _told(path), path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    torn = len(head) < HEAD_BYTES and b"\n" not in head and head.startswith(HEAD_BEGINS[: len(head)])
    if head and not torn and not HEAD.match(head):
        raise InputError(f"{path} holds something else than results of foveate eval; name another file")


def read_results(path: Path, source: str) -> list[Result]:
    """What a run has written; nothing where there is no file. What a kill left of a last line is not read.

    Raises InputError for a line that is no result, or of another run than `source`.
    """
    with _told(path):
        text = whole_lines(path).decode(errors="replace") if path.exists() else ""
    return [_result(line, source, f"{path}:{number}") for number, line in enumerate(text.split("\n")[:-1], start=1)]


def written(results: Iterator[Result], path: Path, source: str, held: int) -> Iterator[Result]:
    """The same, each written as it comes behind the first `held` of the file; an earlier file stays until there is one.

    Raises CheckpointError when there is no room.
    """
    for count, result in enumerate(results):
        if count == 0:
            with _told(path):
                if held:
                    os.truncate(path, len(whole_lines(path)))
                else:
                    path.write_bytes(b"")
        append(path, json.dumps(result.to_json() | {"source": source}, ensure_ascii=False) + "\n")
        yield result


def _result(line: str, source: str, where: str) -> Result:
    try:
        record = json.loads(line)
        found, result = record.get("source"), Result.from_json(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where} is no result ({error!r}); name another file, or leave out --resume") from error
    if found != source:
        wanted = f"wanted {source!r}; give the same suite, model and settings, or leave out --resume"
        raise InputError(f"{where} is of run {found!r}, {wanted}")
    return result


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write traces to {path} ({error.strerror}); name another file") from error
