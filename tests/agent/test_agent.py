"""The Python face.

Proves: ask is stream run to its end; pictures come as paths, bytes or PIL images and bad ones are refused before
anything runs; a cancel, a closed iterator and Ctrl-C stop the model at the next token and a tool in the middle of its
call, and leave the conversation usable, with the variables of its code; one conversation takes one question at a time;
tools live as long as they should and are closed.
"""

import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from needs import needs_bubblewrap
from PIL import Image
from scripted import ScriptedReasoner, answer, zoom

from foveate.agent.agent import Agent, PictureSource
from foveate.agent.budget import Budget
from foveate.agent.interrupt import cancel_on_interrupt
from foveate.agent.records import RunDone, StepDone, TextDelta
from foveate.errors import ConfigError, ImageError, InputError
from foveate.tools.python import PythonTool
from foveate.tools.tool import Tool
from foveate.tools.zoom import zoom_tool

ENDLESS = "<think>" + "on and on " * 10_000


class Counter(Tool):
    """A tool with state: it counts its calls in a run."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(self.count, name="count")
        self.log = log
        self.calls = 0

    def count(self) -> str:
        """Count."""
        self.calls += 1
        return str(self.calls)

    def for_run(self) -> "Counter":
        self.log.append("open")
        return Counter(self.log)

    def close(self) -> None:
        self.log.append("close")


def scripted(*turns: str) -> Agent:
    return Agent(ScriptedReasoner(list(turns)), tools=[zoom_tool()], checkpoint=":memory:")


def slow(*turns: str) -> tuple[Agent, ScriptedReasoner]:
    reasoner = ScriptedReasoner(list(turns), seconds_per_token=0.002)
    return Agent(reasoner, tools=(), checkpoint=":memory:"), reasoner


def test_ask_is_stream_run_to_its_end() -> None:
    picture = Image.new("RGB", (64, 48))
    *events, last = scripted(zoom(0, 0, 0, 500, 500), answer("K7")).stream("What?", [picture])
    assert isinstance(last, RunDone)
    assert {type(event) for event in events} == {TextDelta, StepDone}
    asked = scripted(zoom(0, 0, 0, 500, 500), answer("K7")).ask("What?", [picture])
    assert (asked.text, asked.images) == (last.answer.text, last.answer.images)


def test_pictures_come_in_four_forms(tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save(tmp_path / "a.png")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    with scripted(answer("K7")) as agent:
        forms: list[PictureSource] = [tmp_path / "a.png", str(tmp_path / "a.png"), buffer.getvalue(), picture]
        images = agent.ask("What?", forms).images
        assert len({image.sha256 for image in images}) == 1
        assert agent.image(images[0].sha256).tobytes() == picture.tobytes()


@pytest.mark.parametrize("question", ["", "   ", "\n"])
def test_an_empty_question_is_refused(question: str) -> None:
    with pytest.raises(InputError, match="empty question"):
        scripted(answer("K7")).ask(question)


def test_bad_pictures_are_refused_before_anything_runs(tmp_path: Path) -> None:
    agent = scripted(answer("K7"))
    (tmp_path / "page.png").write_text("<html>")
    for picture in (tmp_path / "none.png", tmp_path / "page.png", b"", b"\x89PNG\r\n\x1a\n", tmp_path):
        with pytest.raises(ImageError):
            agent.stream("What?", [picture])
    assert agent.ask("What?").text == "K7"


@pytest.mark.parametrize("thread", ["", "x" * 201, "a\nb", "\x00"])
def test_hostile_names_of_threads_are_refused(thread: str) -> None:
    with pytest.raises(InputError, match="wanted a name"):
        scripted(answer("K7")).ask("What?", thread=thread)


def test_a_thread_needs_a_checkpoint() -> None:
    with pytest.raises(InputError, match="no checkpoint"):
        Agent(ScriptedReasoner([]), tools=()).ask("What?", thread="trip")


def test_a_question_without_a_thread_is_not_kept() -> None:
    with scripted(answer("K7")) as agent:
        assert agent.ask("What?").text == agent.ask("What?").text == "K7"
        assert agent._checkpointer is not None
        assert list(agent._checkpointer.list(None)) == []


def test_a_budget_is_per_question() -> None:
    with scripted(answer("K7"), answer("K8")) as agent:
        assert agent.ask("What?", thread="trip", budget=Budget(turns=0)).status == "out_of_budget"
        assert agent.ask("What?", thread="trip", budget=Budget(turns=1)).text == "K7"
        assert agent.ask("And?", thread="trip").usage.turns == 1
    with pytest.raises(ConfigError):
        Budget(turns=-1)


def test_a_cancel_ends_the_run_at_the_next_token_and_keeps_the_conversation() -> None:
    agent, reasoner = slow(ENDLESS)
    with agent:
        events = agent.stream("What?", thread="trip")
        next(events)
        start = time.monotonic()
        agent.cancel()
        *_, last = events
        assert time.monotonic() - start < 10  # the turn would go on for much longer
        assert isinstance(last, RunDone)
        assert (last.answer.status, last.answer.text) == ("cancelled", "")
        assert [step.kind for step in last.answer.steps] == ["think"]
        reasoner.turns = [answer("K7")]
        assert agent.ask("And now?", thread="trip").text == "K7"
        roles = [message["role"] for message in reasoner.seen[-1]]
        assert roles == ["user", "user"]
        assert [exchange.answer.status for exchange in agent.exchanges("trip")] == ["cancelled", "answered"]


def test_closing_the_iterator_cancels() -> None:
    agent, reasoner = slow(ENDLESS)
    events = agent.stream("What?", thread="trip")
    next(events)
    events.close()
    reasoner.turns = [answer("K7")]
    assert agent.ask("And now?", thread="trip").text == "K7"


def test_an_interrupt_while_waiting_cancels() -> None:
    agent, reasoner = slow(ENDLESS)
    events = agent.stream("What?", thread="trip")
    next(events)
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    assert not any(thread.name == "foveate-run" for thread in threading.enumerate())
    reasoner.turns = [answer("K7")]
    assert agent.ask("And now?", thread="trip").text == "K7"


def test_a_bug_of_the_model_reaches_the_caller_and_the_next_question_works() -> None:
    reasoner = ScriptedReasoner([])
    with Agent(reasoner, tools=(), checkpoint=":memory:") as agent:
        with pytest.raises(IndexError):
            agent.ask("What?", thread="trip")
        reasoner.turns = [answer("K7")]
        assert agent.ask("And now?", thread="trip").text == "K7"


def test_a_conversation_takes_one_question_at_a_time() -> None:
    agent, _ = slow(ENDLESS)
    events = agent.stream("What?", thread="trip")
    next(events)
    with pytest.raises(InputError, match="still answering"):
        next(agent.stream("And?", thread="trip"))
    other = agent.stream("And?", thread="other")
    assert isinstance(next(other), TextDelta)
    agent.close()
    assert [event.answer.status for event in (*events, *other) if isinstance(event, RunDone)] == ["cancelled"] * 2


class Sleeper(Tool):
    """A tool that ends only when it is cancelled. It may not be closed before."""

    def __init__(self) -> None:
        super().__init__(self.sleep, name="sleep")
        self.begun, self.cancelled = threading.Event(), threading.Event()
        self.closed = False

    def sleep(self) -> str:
        """Sleep."""
        self.begun.set()
        woken = self.cancelled.wait(timeout=30) and not self.closed
        return "woken" if woken else "slept"

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("by_closing", [False, True])
def test_a_cancel_reaches_a_tool_that_goes_on(by_closing: bool) -> None:
    turns = ['<tool_call>{"name":"sleep","arguments":{}}</tool_call>', answer("K7"), answer("K8")]
    sleeper = Sleeper()
    with Agent(ScriptedReasoner(turns), tools=[sleeper], checkpoint=":memory:") as agent:
        events = agent.stream("What?", thread="trip")
        next(events)
        assert sleeper.begun.wait(timeout=10)
        start = time.monotonic()
        if by_closing:
            events.close()
        else:
            agent.cancel()
            assert [event.answer.status for event in events if isinstance(event, RunDone)] == ["cancelled"]
        assert time.monotonic() - start < 5
        assert agent.exchanges("trip")[0].answer.steps[1].text == "woken"
        assert agent.ask("And now?", thread="trip").text == "K7"


def test_closing_the_agent_ends_a_call_first() -> None:
    sleeper = Sleeper()
    agent = Agent(ScriptedReasoner(['<tool_call>{"name":"sleep","arguments":{}}</tool_call>']), tools=[sleeper])
    events = agent.stream("What?")
    next(events)
    assert sleeper.begun.wait(timeout=10)
    agent.close()
    *_, last = events
    assert isinstance(last, RunDone)
    assert (last.answer.status, last.answer.steps[1].text) == ("cancelled", "woken")


def python(code: str) -> str:
    """A turn of nano that runs code."""
    call = json.dumps({"name": "python", "arguments": {"code": code}}, separators=(",", ":"))
    return f"<think>I compute.</think><tool_call>{call}</tool_call>"


@needs_bubblewrap
@pytest.mark.parametrize("by", ["cancel", "close", "signal"])
def test_a_cancelled_cell_leaves_its_variables_to_the_follow_up(by: str) -> None:
    turns = [python("kept = 42"), python("while True: pass")]
    reasoner = ScriptedReasoner(turns)
    with Agent(reasoner, tools=[PythonTool()], checkpoint=":memory:") as agent:
        events = agent.stream("What?", thread="trip")
        while not (isinstance(event := next(events), StepDone) and event.step.kind == "tool"):
            pass
        time.sleep(0.5)  # the endless cell runs
        start = time.monotonic()
        if by == "cancel":
            agent.cancel()
            list(events)
        elif by == "close":
            events.close()
        else:
            with cancel_on_interrupt(agent.cancel):
                threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
                list(events)
        assert time.monotonic() - start < 5
        stopped = agent.exchanges("trip")[0].answer
        assert stopped.status == "cancelled"
        told = "python: the code was cancelled and was interrupted; variables are kept"
        assert (stopped.steps[-1].failed, stopped.steps[-1].text) == (True, told)
        reasoner.turns = [*turns, python("print(kept)"), answer("42")]
        followed = agent.ask("And now?", thread="trip")
        assert (followed.steps[1].text, followed.text) == ("42", "42")


def test_tools_live_as_long_as_a_named_conversation() -> None:
    call = '<tool_call>{"name":"count","arguments":{}}</tool_call>'
    log: list[str] = []
    with Agent(ScriptedReasoner([call, answer("K7")] * 2), tools=[Counter(log)], checkpoint=":memory:") as agent:
        texts = [agent.ask("What?", thread="trip").steps[1].text for _ in range(2)]
        assert (texts, log) == (["1", "2"], ["open"])
        assert agent.ask("What?").steps[1].text == "1"
        assert log == ["open", "open", "close"]
    assert log == ["open", "open", "close", "close"]
    agent.close()
    assert log == ["open", "open", "close", "close"]


def test_a_conversation_that_is_released_gets_new_tools() -> None:
    call = '<tool_call>{"name":"count","arguments":{}}</tool_call>'
    log: list[str] = []
    with Agent(ScriptedReasoner([call, answer("K7")] * 2), tools=[Counter(log)], checkpoint=":memory:") as agent:
        agent.ask("What?", thread="trip")
        agent.release("trip")
        agent.release("trip")
        assert log == ["open", "close"]
        assert agent.ask("What?", thread="trip").steps[1].text == "1"


def test_a_question_that_begins_keeps_its_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who releases a conversation while a question begins in it is told so, and closes nothing."""
    call = '<tool_call>{"name":"count","arguments":{}}</tool_call>'
    log: list[str] = []
    refused: list[str] = []
    with Agent(ScriptedReasoner([call, answer("K7")]), tools=[Counter(log)], checkpoint=":memory:") as agent:

        def release() -> None:
            try:
                agent.release("trip")
            except InputError as error:
                refused.append(str(error))

        def released_meanwhile(tool: Counter) -> Counter:
            rival.start()
            rival.join(0.2)
            return for_run(tool)

        rival, for_run = threading.Thread(target=release), Counter.for_run
        monkeypatch.setattr(Counter, "for_run", released_meanwhile)
        assert agent.ask("What?", thread="trip").steps[1].text == "1"
        rival.join()
        assert log == ["open"]
    assert refused == ["the thread 'trip' is still answering; wait for it or cancel it"]


def test_a_second_interrupt_does_not_wait_for_a_tool_that_cannot_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.agent.agent.CLOSE_PATIENCE_S", 0.2)
    let_go, begun = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        return str(let_go.wait(30))

    call = '<tool_call>{"name":"wait","arguments":{}}</tool_call>'
    agent = Agent(ScriptedReasoner([call, answer("K7")]), tools=[Tool(wait)])
    events = agent.stream("What?")
    while not isinstance(next(events), StepDone):
        pass
    assert begun.wait(10)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)
    assert time.monotonic() - start < 5
    let_go.set()
    agent.close()


@pytest.mark.parametrize("make", [lambda: None, lambda: 5])
def test_what_a_users_tool_returns_is_shown_as_text(make: Callable[[], Any]) -> None:
    call = '<tool_call>{"name":"make","arguments":{}}</tool_call>'
    with Agent(ScriptedReasoner([call, answer("K7")]), tools=[Tool(make, name="make")]) as agent:
        assert agent.ask("What?").steps[1].text == str(make())
