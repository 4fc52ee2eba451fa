"""Where conversations are kept between nodes: nowhere, in memory, in a SQLite file, or in a PostgreSQL database.

A checkpoint is data from outside as soon as it lies on a disk. The serializer rebuilds plain values only: its list of
allowed modules is empty, whatever LANGGRAPH_STRICT_MSGPACK says, and pickle stays off.
"""

import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.errors import InvalidUpdateError

from foveate.errors import InputError, first_line
from foveate.extras import from_extra
from foveate.paths import expanded

if TYPE_CHECKING:
    from psycopg import Connection

IN_MEMORY = ":memory:"
POSTGRES = ("postgresql://", "postgres://")
_SCHEME = re.compile(r"\A([A-Za-z][\w+.-]*)://")
BUSY_TIMEOUT_S = 10.0
MOST_CONNECTIONS = 4
DAMAGE = (
    ValueError, TypeError, LookupError, AttributeError, NotImplementedError, RecursionError, OverflowError,
    InvalidUpdateError,
)  # fmt: skip
"""What reading a conversation raises that somebody has changed."""
SETUP_LOCK = 0x666F7665
"""The number of PostgreSQL's advisory lock under which tables are made."""


def strict_serializer() -> JsonPlusSerializer:
    """A serializer that rebuilds no object of any module."""
    return JsonPlusSerializer(pickle_fallback=False, allowed_json_modules=None, allowed_msgpack_modules=None)


def open_checkpointer(where: str | Path | None) -> BaseCheckpointSaver[str] | None:
    """A saver: none for None, in memory for ":memory:", in a database for its URL, else in a SQLite file.

    Tables and the file are made when they are missing. Raises InputError.
    """
    if where is None:
        return None
    if str(where) == IN_MEMORY:
        return InMemorySaver(serde=strict_serializer())
    return _in_postgres(str(where)) if is_postgres(where) else _in_sqlite(expanded(where))


def is_postgres(where: str | Path) -> bool:
    """Whether this names a PostgreSQL database and no file. Raises InputError for a URL of another kind."""
    scheme = _SCHEME.match(str(where))
    if scheme is not None and not str(where).startswith(POSTGRES):  # no more of it is shown: it may hold a password
        raise InputError(
            f"cannot keep conversations at {scheme[0]}...; give postgresql://USER:PASSWORD@HOST/DATABASE, or the path "
            "of a file"
        )
    return scheme is not None


def _in_sqlite(path: Path) -> BaseCheckpointSaver[str]:
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


def _in_postgres(url: str) -> BaseCheckpointSaver[str]:
    """A saver over a pool of connections, each tried before it is used: the server may have started anew."""
    with from_extra("postgres", "langgraph-checkpoint-postgres"):
        import psycopg
        from langgraph.checkpoint.postgres import PostgresSaver
        from psycopg.conninfo import conninfo_to_dict
        from psycopg.rows import dict_row
        from psycopg_pool import ConnectionPool
    session: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    try:
        conninfo_to_dict(url)
    except psycopg.Error:  # quotes parts of the URL, and that holds a password
        raise _no_database("what follows postgresql:// cannot be read") from None
    try:
        with psycopg.connect(url, connect_timeout=int(BUSY_TIMEOUT_S), **session) as connection:
            with _alone(connection):
                PostgresSaver(connection).setup()
            place = f"{connection.info.dbname} at {connection.info.host}"
    except psycopg.Error as error:
        raise _no_database(first_line(error)) from error
    pool: ConnectionPool[Connection[dict[str, Any]]] = ConnectionPool(
        url,
        kwargs=session,
        name=f"foveate, {place}",
        min_size=1,
        max_size=MOST_CONNECTIONS,
        timeout=BUSY_TIMEOUT_S,
        reconnect_timeout=BUSY_TIMEOUT_S,  # then the next question tries at once, and not minutes later
        check=ConnectionPool.check_connection,
        open=True,
    )
    saver = PostgresSaver(pool, serde=strict_serializer())
    saver.lock = nullcontext()  # type: ignore[assignment]  # it guards one connection; here each use has its own
    return saver


def _no_database(reason: str) -> InputError:
    return InputError(
        f"cannot keep conversations in PostgreSQL ({reason}); give postgresql://USER:PASSWORD@HOST/DATABASE of a "
        "server that runs and a database where USER may make tables"
    )


@contextmanager
def _alone(connection: "Connection[Any]") -> Iterator[None]:
    """While no other process makes tables.

    The lock is tried again and again: who waited for it inside the server would hold up the index that the other makes.
    """
    start = time.monotonic()
    while not connection.execute("SELECT pg_try_advisory_lock(%s) AS held", (SETUP_LOCK,)).fetchone()["held"]:  # type: ignore[index]
        if time.monotonic() - start > BUSY_TIMEOUT_S:
            raise InputError("another process has been making tables in PostgreSQL for too long; end it or wait for it")
        time.sleep(0.05)
    yield  # the lock ends with the connection


@contextmanager
def legible() -> Iterator[None]:
    """Around what reads or writes conversations: a database's error becomes an InputError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise InputError(
            f"the conversations cannot be read or written ({error}); make room or end what locks their file, or give "
            "another file"
        ) from error
    except _postgres_errors() as error:
        raise InputError(
            f"the conversations cannot be read or written ({first_line(error)}); see that PostgreSQL runs, then resume"
        ) from error


@contextmanager
def intact(thread: str) -> Iterator[None]:
    """Around what reads a conversation: one that is damaged, or of another version, becomes an InputError too."""
    with legible():
        try:
            yield
        except DAMAGE as error:
            raise InputError(
                f"the conversation {thread!r} is damaged or of another version of Foveate ({type(error).__name__}: "
                f"{first_line(error)[:200]}); begin another one, or give the file back as it was"
            ) from error


def _postgres_errors() -> tuple[type[Exception], ...]:
    """What PostgreSQL's client raises; nothing when nobody has imported it."""
    psycopg = sys.modules.get("psycopg")
    return (psycopg.Error,) if psycopg else ()


def close_checkpointer(saver: BaseCheckpointSaver[str] | None) -> None:
    """Close the file or the connections of a saver that `open_checkpointer` made."""
    if saver is not None and not isinstance(saver, InMemorySaver):
        saver.conn.close()  # type: ignore[attr-defined]
