"""Where conversations are kept between nodes: nowhere, in memory, or in a SQLite file.

A checkpoint is data from outside as soon as it lies on a disk. The serializer rebuilds plain values only: its list of
allowed modules is empty, whatever LANGGRAPH_STRICT_MSGPACK says, and pickle stays off.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver

from foveate.errors import InputError

IN_MEMORY = ":memory:"
BUSY_TIMEOUT_S = 10.0


def strict_serializer() -> JsonPlusSerializer:
    """A serializer that rebuilds no object of any module."""
    return JsonPlusSerializer(pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=None)


def open_checkpointer(where: str | Path | None) -> BaseCheckpointSaver[str] | None:
    """None for None, a saver in memory for ":memory:", else one over the SQLite file `where`, made when missing."""
    if where is None:
        return None
    if str(where) == IN_MEMORY:
        return InMemorySaver(serde=strict_serializer())
    path = Path(where)
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, check_same_thread=False, timeout=BUSY_TIMEOUT_S)
            stack.callback(connection.close)
            saver = SqliteSaver(connection, serde=strict_serializer())
            saver.setup()
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"cannot keep conversations in {path} ({error}); give the path of a new file or of an earlier one"
            ) from error
        stack.pop_all()
    return saver


@contextmanager
def legible() -> Iterator[None]:
    """Around what reads or writes conversations: an error of SQLite becomes an InputError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise InputError(
            f"the conversations cannot be read or written ({error}); make room or end what locks their file, or give "
            "another file"
        ) from error


def close_checkpointer(saver: BaseCheckpointSaver[str] | None) -> None:
    """Close the file of a saver that `open_checkpointer` made."""
    if isinstance(saver, SqliteSaver):
        saver.conn.close()
