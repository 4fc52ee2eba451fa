"""Conversations that outlive their process.

Proves: a run killed between two nodes goes on in a new process and ends as if nothing had happened; a follow-up in a
new process sees the earlier messages and images; checkpoints stay small; a tampered checkpoint runs no code; a question
that cannot be kept leaves the conversation as it was; one that is damaged or of another version and a file that is no
database are clear errors.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ormsgpack
import pytest
from langgraph.checkpoint.serde.jsonplus import (
    EXT_CONSTRUCTOR_KW_ARGS,
    EXT_CONSTRUCTOR_POS_ARGS,
    EXT_CONSTRUCTOR_SINGLE_ARG,
    EXT_METHOD_SINGLE_ARG,
    EXT_PYDANTIC_V1,
    EXT_PYDANTIC_V2,
)
from langgraph.checkpoint.sqlite import SqliteSaver
from PIL import Image
from scripted import ScriptedReasoner, answer, zoom

from foveate.agent import checkpoint
from foveate.agent.agent import Agent
from foveate.agent.archive import Archive
from foveate.agent.checkpoint import open_checkpointer, strict_serializer
from foveate.agent.conversations import Conversations
from foveate.agent.images import ImageStore
from foveate.agent.records import RunDone
from foveate.agent.state import checked
from foveate.errors import InputError
from foveate.tools.tool import Tool, ToolResult
from foveate.tools.zoom import zoom_tool

TURNS = [zoom(0, 0, 0, 500, 500), zoom(1, 0, 0, 500, 500), answer("K7"), zoom(2, 0, 0, 500, 500), answer("K8")]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_a_box_in_numbers_of_numpy_is_kept(kind: type[np.number[Any]]) -> None:
    def corner(images: Sequence[Image.Image]) -> ToolResult:
        """Show the corner."""
        box = tuple(kind(side) for side in (10, 10, 90, 90))
        return ToolResult(text="", image=images[0].crop((10, 10, 90, 90)), source_idx=0, box_px=box)  # type: ignore[arg-type]

    reasoner = ScriptedReasoner(['<tool_call>{"name":"corner","arguments":{}}</tool_call>', answer("K7")])
    with Agent(reasoner, tools=[Tool(corner, wants_images=True)], checkpoint=":memory:") as agent:
        asked = agent.ask("What?", [Image.new("RGB", (320, 240))], thread="t")
    assert asked.images[1].box_px == (10.0, 10.0, 90.0, 90.0)
    assert json.loads(json.dumps(asked.to_json()))["images"][1]["box_px"] == [10.0, 10.0, 90.0, 90.0]


CHILD = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from scripted import ScriptedReasoner
from foveate.agent.agent import Agent
from foveate.tools.zoom import zoom_tool
sys.path.insert(0, str(Path(sys.argv[3])))
from test_checkpoint import TURNS

def reply(messages):
    turn = sum(message["role"] == "assistant" for message in messages)
    if turn == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return TURNS[turn]

agent = Agent(ScriptedReasoner(reply), tools=[zoom_tool()], checkpoint=sys.argv[1])
agent.ask("What is there?", [Image.linear_gradient("L").resize((640, 480))], thread="trip")
"""


def agent_over(path: Path, turns: list[str] = TURNS) -> Agent:
    return Agent(ScriptedReasoner(turns), tools=[zoom_tool()], checkpoint=path)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a process leaves that asks a question and dies by SIGKILL when the model begins its second turn."""
    folder = tmp_path_factory.mktemp("killed")
    here = Path(__file__).parent
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "talk.sqlite"), "1", str(here)],
        env={**os.environ, "PYTHONPATH": str(here.parent)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    return folder


def test_a_killed_run_goes_on_in_a_new_process(killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    with agent_over(tmp_path / "talk.sqlite") as agent:
        assert agent.unfinished("trip") == "What is there?"
        assert agent.exchanges("trip") == ()
        *_, last = agent.resume("trip")
        assert isinstance(last, RunDone)
        assert agent.unfinished("trip") is None
    with agent_over(tmp_path / "whole.sqlite") as agent:
        whole = agent.ask("What is there?", [Image.linear_gradient("L").resize((640, 480))], thread="trip")
    assert last.answer.text == whole.text == "K7"
    assert last.answer.images == whole.images
    assert [step.box_px for step in last.answer.steps] == [step.box_px for step in whole.steps]
    assert (last.answer.usage.turns, last.answer.usage.policy_tokens) == (3, whole.usage.policy_tokens)


def test_a_new_question_may_take_the_place_of_the_killed_one(killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    with agent_over(tmp_path / "talk.sqlite") as agent:
        found = agent.ask("And now?", thread="trip")
        assert (found.status, len(found.images)) == ("answered", 3)
        assert [exchange.question for exchange in agent.exchanges("trip")] == ["And now?"]


def test_a_follow_up_in_a_new_process_continues_the_conversation(tmp_path: Path) -> None:
    with agent_over(tmp_path / "talk.sqlite") as agent:
        first = agent.ask("What is there?", [Image.new("RGB", (640, 480))], thread="trip")
    reasoner = ScriptedReasoner(TURNS)
    with Agent(reasoner, tools=[zoom_tool()], checkpoint=tmp_path / "talk.sqlite") as agent:
        second = agent.ask("Closer?", thread="trip")
        assert agent.exchanges("trip")[0].answer == first
        assert agent.exchanges("trip")[1].answer == second
        assert agent.exchanges("other") == ()
    assert (second.text, second.usage.turns, len(second.steps)) == ("K8", 2, 4)
    *before, crop = second.images
    assert before == list(first.images)
    assert crop.box_px == (0.0, 0.0, 80.0, 60.0)
    roles = [message["role"] for message in reasoner.seen[0]]
    assert roles == ["user", "assistant", "tool", "assistant", "tool", "assistant", "user"]
    assert reasoner.seen[0][1]["token_ids"] == list(map(ord, TURNS[0]))


def test_resuming_what_is_finished_is_refused(tmp_path: Path) -> None:
    with agent_over(tmp_path / "talk.sqlite") as agent:
        agent.ask("What is there?", [Image.new("RGB", (640, 480))], thread="trip")
        for thread in ("trip", "unknown"):
            with pytest.raises(InputError, match="without an unfinished question"):
                agent.resume(thread)


def test_forty_turns_with_crops_stay_small(tmp_path: Path) -> None:
    turns = [zoom(0, 0, 0, 500 + 10 * number, 500) for number in range(11)] + [answer("K7")]
    with agent_over(tmp_path / "talk.sqlite", turns * 4) as agent:
        agent.ask("1?", [Image.effect_noise((200, 160), 90)], thread="trip")
        for question in ("2?", "3?", "4?"):
            agent.ask(question, thread="trip")
        assert len(agent.exchanges("trip")[-1].answer.images) == 45
    rows = sqlite3.connect(tmp_path / "talk.sqlite")
    stored = [rows.execute(f"SELECT sum(length({c})) FROM {t}").fetchone()[0] for t, c in SIZES]
    rows.close()
    assert sum(stored) < 500_000
    assert len(list((tmp_path / "talk.sqlite.images").iterdir())) == 12


SIZES = (("checkpoints", "checkpoint"), ("writes", "value"))


@pytest.mark.parametrize(
    ("code", "call"),
    [
        (EXT_CONSTRUCTOR_SINGLE_ARG, ("os", "mkdir", "was-here")),
        (EXT_CONSTRUCTOR_POS_ARGS, ("os", "mkdir", ["was-here"])),
        (EXT_CONSTRUCTOR_KW_ARGS, ("os", "mkdir", {"path": "was-here"})),
        (EXT_METHOD_SINGLE_ARG, ("shutil", "os", "was-here", "mkdir")),
        (EXT_PYDANTIC_V1, ("os", "mkdir", {"path": "was-here"})),
        (EXT_PYDANTIC_V2, ("os", "mkdir", {"path": "was-here"}, "model_validate_json")),
    ],
)
def test_a_tampered_checkpoint_calls_nothing(
    code: int, call: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blob = ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(call)))
    assert strict_serializer().loads_typed(("msgpack", blob)) == call[2]
    assert list(tmp_path.iterdir()) == []


def test_a_pickled_checkpoint_is_not_read(tmp_path: Path) -> None:
    target = tmp_path / "was-here"
    with pytest.raises(NotImplementedError):
        strict_serializer().loads_typed(("pickle", b"cos\nmkdir\n(S'" + str(target).encode() + b"'\ntR."))
    assert not target.exists()


@pytest.mark.parametrize(
    "value",
    [
        '{"lc": 1, "type": "constructor", "id": ["os", "mkdir"], "kwargs": {"path": "was-here"}}',
        '{"lc": 2, "type": "constructor", "id": ["os", "mkdir"], "args": ["was-here"]}',
        "[" * 100_000,
    ],
    ids=["of LangChain", "of LangGraph", "deep"],
)
def test_a_tampered_conversation_calls_nothing_and_hides_no_other(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept, reasoner = Conversations(tmp_path / "data"), ScriptedReasoner([answer("K7")])
    with Agent(reasoner, tools=(), checkpoint=kept.database, store=ImageStore(kept.images)) as agent:
        for thread in ("trip", "other"):
            agent.ask("What is there?", thread=thread)
        with closing(sqlite3.connect(kept.database)) as connection, connection:
            tampered = "UPDATE checkpoints SET type = 'json', checkpoint = ? WHERE thread_id = 'trip'"
            connection.execute(tampered, (value.encode(),))
        with pytest.raises(InputError, match="the conversation 'trip' is damaged"):
            agent.exchanges("trip")
    assert {one.thread: one.damaged for one in Archive(kept).kept()} == {"trip": True, "other": False}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_sqlite_cannot_do_later_is_a_clear_error_too(tmp_path: Path) -> None:
    agent = Agent(ScriptedReasoner([answer("K7")]), checkpoint=tmp_path / "talk.sqlite")
    connection = sqlite3.connect(tmp_path / "talk.sqlite")
    connection.execute("DROP TABLE checkpoints")
    connection.close()
    for act in (agent.exchanges, agent.unfinished, lambda thread: agent.ask("What?", thread=thread)):
        with pytest.raises(InputError, match=r"cannot be read or written \(no such table"):
            act("trip")
    agent.close()


@contextmanager
def locked(path: Path, _: sqlite3.Connection) -> Iterator[None]:
    """Another process writes."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def read_only(_: Path, connection: sqlite3.Connection) -> Iterator[None]:
    """Nobody may write."""
    connection.execute("PRAGMA query_only = 1")
    yield
    connection.execute("PRAGMA query_only = 0")


@contextmanager
def full(_: Path, connection: sqlite3.Connection) -> Iterator[None]:
    """There is no room for more."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")
    yield
    connection.execute(f"PRAGMA max_page_count = {2**30}")


@pytest.mark.parametrize("hindered", [locked, read_only, full])
def test_a_question_that_cannot_be_kept_leaves_the_conversation_as_it_was(
    hindered: Callable[[Path, sqlite3.Connection], AbstractContextManager[None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "talk.sqlite"
    with Agent(ScriptedReasoner(lambda _: answer("K7")), tools=(), checkpoint=path) as agent:
        assert isinstance(agent._checkpointer, SqliteSaver)
        agent.ask("What is there?", thread="t")
        with hindered(path, agent._checkpointer.conn):
            with pytest.raises(InputError, match="the conversations cannot be read or written"):
                agent.ask("more " * 40_000, thread="t")
            assert len(agent.exchanges("t")) == 1
        assert agent.ask("And now?", thread="t").text == "K7"
        assert len(agent.exchanges("t")) == 2


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("UPDATE checkpoints SET checkpoint = x'c1c1c1'", "ValueError|MsgpackDecodeError"),
        ("UPDATE checkpoints SET type = 'pickle'", "NotImplementedError"),
        ("UPDATE writes SET value = x'c1c1c1'", "ValueError|MsgpackDecodeError"),
        ("UPDATE writes SET value = CAST(replace(value, 'failed', 'faiLed') AS BLOB)", "TypeError"),
    ],
)
def test_a_damaged_conversation_is_told_and_no_other_suffers(tmp_path: Path, damage: str, told: str) -> None:
    path = tmp_path / "talk.sqlite"
    with agent_over(path) as agent:
        agent.ask("What is there?", [Image.new("RGB", (640, 480))], thread="trip")
        for act in (agent.exchanges, agent.unfinished, agent.resume, lambda thread: agent.ask("And?", thread=thread)):
            with sqlite3.connect(path) as connection:
                connection.execute(f"{damage} WHERE thread_id = 'trip'")
            connection.close()
            with pytest.raises(InputError, match=rf"the conversation 'trip' is damaged .*({told})"):
                act("trip")
        assert agent.ask("What is there?", [Image.new("RGB", (640, 480))], thread="other").text == "K7"


def test_another_version_of_the_state_is_told() -> None:
    assert checked({}) == {}
    with pytest.raises(ValueError, match="its state has the version 2, wanted 1"):
        checked({"schema_version": 2, "steps": [{"unheard": "of"}]})


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://me:secret@host/talk", "POSTGRESQL://me:secret@h/t", "sqlite:///t"]
)
def test_a_url_of_another_kind_becomes_no_folder(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"give postgresql://USER:PASSWORD@HOST/DATABASE") as told:
        Agent(ScriptedReasoner([]), checkpoint=url)
    assert "secret" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "talk.sqlite").write_text("hello, I am a text of more than one hundred bytes. " * 40)
    with pytest.raises(InputError, match="cannot keep conversations in"):
        open_checkpointer(tmp_path / "talk.sqlite")
    with pytest.raises(InputError, match="cannot keep conversations in"):
        open_checkpointer(tmp_path)
