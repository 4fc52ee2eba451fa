"""What a service leans on that embeds an agent: nothing of one client reaches another, or outlives it.

Proves: a question that is resumed keeps the budget that it was asked with; who reads a conversation never waits for a
tool; a conversation can be deleted; a graph of LangGraph's that a tool asks is none of ours; what an event holds is the
reader's own; a tool that cannot be opened is told, and leaves none open; pictures last as long as their conversation.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from pictures import noise
from scripted import ScriptedReasoner, answer, zoom

from foveate.agent import running
from foveate.agent.agent import MOST_OPEN, Agent
from foveate.agent.budget import Budget
from foveate.agent.images import ImageStore
from foveate.agent.records import StepDone, ToolStarted
from foveate.errors import ConfigError, InputError, ToolError
from foveate.models.reasoner import Message
from foveate.tools.tool import Tool, ToolResult
from foveate.tools.zoom import zoom_tool

LOOKS = [zoom(0, 0, 0, 500, 500), zoom(0, 0, 0, 400, 400), zoom(0, 0, 0, 300, 300), answer("7")]


def call(name: str) -> str:
    return f'<think>I ask.</think><tool_call>{{"name":"{name}","arguments":{{}}}}</tool_call>'


class Fails(ScriptedReasoner):
    """A model with a bug in its turn number `at`, once."""

    def __init__(self, turns: Sequence[str], at: int) -> None:
        super().__init__(turns)
        self.at: int | None = at

    def _next(self, messages: Sequence[Message]) -> str:
        if sum(message["role"] == "assistant" for message in messages) == self.at:
            self.at = None
            raise KeyError("a bug")
        return super()._next(messages)


@pytest.mark.parametrize("turns", [2, 40])
def test_a_resumed_question_keeps_its_budget(turns: int, tmp_path: Path) -> None:
    for name, given, wanted in (("kept", None, turns), ("other", Budget(turns=3), 3)):
        reasoner, where = Fails([*LOOKS, answer("8")], at=1), tmp_path / f"{name}.sqlite"
        with (
            Agent(reasoner, tools=[zoom_tool()], checkpoint=where, budget=Budget(turns=1)) as agent,
            pytest.raises(KeyError, match="a bug"),
        ):
            agent.ask("What?", [noise(60, 40)], thread="trip", budget=Budget(turns=turns))
        with Agent(reasoner, tools=[zoom_tool()], checkpoint=where, budget=Budget(turns=1)) as agent:
            *_, last = agent.resume("trip", budget=given)
            settings = last.answer.settings  # type: ignore[union-attr]
            assert settings is not None
            assert settings.budget == Budget(turns=wanted)
            assert last.answer.status == ("answered" if wanted == 40 else "out_of_budget")  # type: ignore[union-attr]
            assert agent.ask("And?", thread="trip").settings.budget == Budget(turns=1)  # type: ignore[union-attr]


def test_a_resumed_question_keeps_the_budget_of_the_agent_that_was_asked(tmp_path: Path) -> None:
    reasoner, where = Fails(LOOKS, at=1), tmp_path / "talk.sqlite"
    with (
        Agent(reasoner, tools=[zoom_tool()], checkpoint=where, budget=Budget(turns=40)) as agent,
        pytest.raises(KeyError),
    ):
        agent.ask("What?", [noise(60, 40)], thread="trip")
    with Agent(reasoner, tools=[zoom_tool()], checkpoint=where, budget=Budget(turns=1)) as agent:
        *_, last = agent.resume("trip")
    assert last.answer.status == "answered"  # type: ignore[union-attr]


def test_a_question_that_is_unfinished_no_more_is_not_resumed(tmp_path: Path) -> None:
    """Whether another has answered it or the conversation was deleted since the stream was made."""
    reasoner, told = Fails([*LOOKS, answer("8")], at=1), "'trip' without an unfinished question"
    with Agent(reasoner, tools=[zoom_tool()], checkpoint=tmp_path / "talk.sqlite") as agent:
        with pytest.raises(KeyError):
            agent.ask("What?", [noise(60, 40)], thread="trip")
        late = agent.resume("trip")
        *_, _ = agent.resume("trip")
        with pytest.raises(InputError, match=told):
            list(late)
        reasoner.at = 4
        with pytest.raises(KeyError):
            agent.ask("And?", thread="trip")
        late = agent.resume("trip")
        agent.forget("trip")
        with pytest.raises(InputError, match=told):
            list(late)


def test_who_reads_a_conversation_waits_for_no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def wait() -> str:
        """Wait."""
        begun.set()
        may_end.wait(30)
        return "done"

    monkeypatch.setattr("foveate.agent.agent.CLOSE_PATIENCE_S", 0.1)
    with Agent(ScriptedReasoner([call("wait"), answer("7")]), tools=[wait], checkpoint=":memory:") as agent:
        stream = agent.stream("How long?", thread="trip")
        next(stream)
        assert begun.wait(10)
        del stream  # as when a client has gone
        assert agent.exchanges("trip") == ()
        assert agent.unfinished("trip") == "How long?"
        for act in (agent.resume, agent.release, agent.forget, lambda thread: agent.ask("And?", thread=thread)):
            with pytest.raises(InputError, match="'trip' is still answering; wait for it or cancel it"):
                act("trip")
        may_end.set()


@pytest.mark.parametrize("where", [":memory:", "talk.sqlite"])
def test_a_conversation_is_deleted(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = where if where == ":memory:" else tmp_path / where
    with Agent(ScriptedReasoner([answer("7")]), tools=[], checkpoint=place) as agent:
        for thread in ("one", "two"):
            agent.ask("What?", [noise(60, 40)], thread=thread)
        delete, told = agent._checkpointer.delete_thread, []  # type: ignore[union-attr]

        def asked_meanwhile(thread: str) -> None:
            with pytest.raises(InputError, match="still answering"):
                agent.ask("And?", thread=thread)
            told.append(thread)
            delete(thread)

        monkeypatch.setattr(agent._checkpointer, "delete_thread", asked_meanwhile)
        agent.forget("one")
        agent.forget("never")
        assert told == ["one", "never"]
        assert (agent.exchanges("one"), len(agent.exchanges("two"))) == ((), 1)
        assert agent.ask("What?", thread="one").images == ()


def test_a_graph_that_a_tool_asks_is_none_of_ours() -> None:
    class Inner(TypedDict):
        held: Any

    seen = []
    graph = StateGraph(Inner)
    graph.add_node("look", lambda state: seen.append(state["held"]) or {"held": state["held"]})
    graph.add_edge(START, "look")
    graph.add_edge("look", END)
    inner = graph.compile()

    def ask_another() -> str:
        """Ask another graph, whose state no checkpoint can hold."""
        inner.invoke({"held": noise(9, 9)})
        return "asked"

    with Agent(
        ScriptedReasoner([call("ask_another"), answer("7")]), tools=[ask_another], checkpoint=":memory:"
    ) as agent:
        steps = agent.ask("What?", thread="trip").steps
    assert [(step.text, step.failed) for step in steps if step.kind == "tool"] == [("asked", False)]
    assert len(seen) == 1


def test_what_an_event_holds_is_its_readers() -> None:
    with Agent(ScriptedReasoner(LOOKS), tools=[zoom_tool()], checkpoint=":memory:") as agent:
        for event in agent.stream("What?", [noise(60, 40)], thread="trip"):
            if isinstance(event, ToolStarted):
                event.arguments.clear()
            if isinstance(event, StepDone) and event.step.arguments:
                event.step.arguments["box"] = "cut"
        steps = [step for step in agent.exchanges("trip")[0].answer.steps if step.kind == "tool"]
    assert [step.arguments["box"] for step in steps if step.arguments] == [
        [0, 0, size, size] for size in (500, 400, 300)
    ]


class Opened(Tool):
    """Counts how many of it are open; one that is broken cannot be opened."""

    def __init__(self, name: str, opened: list[str], *, broken: bool = False) -> None:
        super().__init__(self.look, name=name)
        self.opened, self.broken = opened, broken

    def look(self) -> str:
        """Look."""
        return "seen"

    def for_run(self) -> "Opened":
        if self.broken:
            raise ConnectionError("nobody there")
        self.opened.append(self.name)
        return self

    def close(self) -> None:
        self.opened.remove(self.name)


def test_a_tool_that_cannot_be_opened_is_told_and_leaves_none_open() -> None:
    opened: list[str] = []
    tools = [Opened("first", opened), Opened("second", opened, broken=True)]
    with Agent(ScriptedReasoner([answer("7")]), tools=tools, checkpoint=":memory:") as agent:
        for thread in (None, "trip"):
            with pytest.raises(ToolError, match="the tool 'second' cannot be opened: ConnectionError: nobody there"):
                agent.ask("What?", thread=thread)
            assert opened == []
        tools[1].broken = False
        assert agent.ask("What?", thread="trip").text == "7"


def test_tools_that_make_room_are_closed_without_holding_up_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with Agent(ScriptedReasoner([answer("7")]), tools=[Opened("look", [])], checkpoint=":memory:") as agent:
        closed = []

        def close_all(tools: Any) -> None:
            closed.append(agent._lock.locked())
            running.close_all(tools)

        monkeypatch.setattr("foveate.agent.agent.close_all", close_all)
        for number in range(MOST_OPEN + 1):
            agent.ask("What?", thread=f"trip {number}")
        assert closed == [False]


def test_pictures_last_as_long_as_their_conversation(tmp_path: Path) -> None:
    reasoner = ScriptedReasoner([answer("7")])
    with pytest.raises(InputError, match="conversations that outlive the process need pictures that do"):
        Agent(reasoner, checkpoint=tmp_path / "talk.sqlite", store=ImageStore())
    Agent(reasoner, checkpoint=tmp_path / "talk.sqlite", store=ImageStore(tmp_path / "pictures")).close()
    Agent(reasoner, checkpoint=":memory:", store=ImageStore()).close()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"store": "pictures"}, r"got the store 'pictures', wanted an ImageStore: ImageStore\(FOLDER\)"),
        ({"observe_image": 5}, "got the observe_image 5, wanted a function from an image to one"),
    ],
)
def test_what_is_no_store_and_no_function_is_told_at_once(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Agent(ScriptedReasoner([]), **wrong)


def test_a_flag_that_is_none_is_told() -> None:
    def measure() -> ToolResult:
        """Measure."""
        return ToolResult(text="too dark", failed="yes")  # type: ignore[arg-type]

    with Agent(ScriptedReasoner([call("measure"), answer("7")]), tools=[measure], checkpoint=":memory:") as agent:
        steps = agent.ask("What?", thread="trip").steps
    assert "it returned a ToolResult with the failed 'yes', wanted True or False" in steps[1].text
