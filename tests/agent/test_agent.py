"""The Python face.

Proves: ask is stream run to its end; pictures come as paths, bytes or PIL images and bad ones are refused before
anything runs; a cancel, a closed iterator and Ctrl-C stop the model at the next token and a tool in the middle of its
call, and leave the conversation usable, with the variables of its code; a stream that was ended by force, or is closed
as it begins, keeps nobody waiting; one conversation takes one question at a time; tools live as long as they should and
are closed; a tool is told to end when the question's time is up; what is wrong in a call of ours is told in one line,
before anything runs; a process that asks on and on holds no more for it.
"""

import contextvars
import gc
import io
import json
import os
import signal
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from needs import needs_bubblewrap
from pictures import noise
from PIL import Image
from scripted import ScriptedReasoner, answer, zoom

from foveate.agent.agent import MOST_OPEN, Agent
from foveate.agent.arguments import tools_of
from foveate.agent.budget import Budget
from foveate.agent.images import ImageStore
from foveate.agent.interrupt import cancel_on_interrupt
from foveate.agent.nodes import MAX_CALLS
from foveate.agent.records import RunDone, StepDone, TextDelta, ToolStarted
from foveate.agent.running import EventStream, Run
from foveate.errors import ConfigError, FoveateError, ImageError, InputError, ModelError
from foveate.models.reasoner import NANO, Message
from foveate.pictures import PictureSource
from foveate.tools.python import PythonTool
from foveate.tools.tool import Box, Tool
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
    assert {type(event) for event in events} == {TextDelta, ToolStarted, StepDone}
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


def test_one_picture_needs_no_list(tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save(tmp_path / "a.png")
    with scripted(answer("K7")) as agent:
        for source in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), picture):
            assert len(agent.ask("What?", source).images) == 1


@pytest.mark.parametrize(
    ("question", "images", "told"),
    [
        (None, (), "got the question None, wanted text"),
        ("What?", None, "got the images None, wanted a picture or a list of them"),
        ("What?", [5], "got a picture of the type int; give a path"),
        ("What?", [io.BytesIO(b"x")], "got a picture of the type BytesIO"),
        ("What?", io.BytesIO(b"\x89PNG\r\n\x1a\n"), "got a picture of the type BytesIO"),
        ("What?", bytearray(b"\x89PNG\r\n\x1a\n"), "got a picture of the type bytearray"),
        ("What?", [Image.new("RGB", (4000, 16))], "picture is 4000 x 16 px"),
    ],
)
def test_what_is_no_question_is_told_and_changes_nothing(question: Any, images: Any, told: str) -> None:
    with scripted(answer("K7")) as agent:
        with pytest.raises(InputError, match=told):
            agent.ask(question, images, thread="trip")
        assert (agent.unfinished("trip"), agent.exchanges("trip"), len(agent.store._images)) == (None, (), 0)
        assert agent.ask("What?", thread="trip").text == "K7"


def several(image: list[int], boxes: list[Box]) -> str:
    """Compare several images."""
    return f"{image} {boxes}"


def marking(hint: Any) -> Callable[..., str]:
    """A tool that takes a box, and an argument image of this type."""

    def mark(image: Any, box: Box) -> str:
        """Mark a part of an image."""
        return f"{image} {box}"

    mark.__annotations__["image"] = hint
    return mark


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"temperature": -1.0}, "got the temperature -1.0, wanted a number from 0 to 100"),
        ({"temperature": float("nan")}, "got the temperature nan"),
        ({"temperature": 1e308}, "got the temperature 1e"),
        ({"seed": "x"}, "got the seed 'x', wanted a whole number"),
        ({"seed": 2**70}, "got the seed"),
        ({"budget": {}}, "got the budget {}, wanted a Budget"),
        ({"tools": 5}, "got the tools 5"),
        ({"tools": [several]}, "the tool 'several' takes a Box, and its argument image is .*, wanted an int"),
        ({"tools": [marking(Literal["before", "after"])]}, "argument image is .*'enum'.*, wanted an int"),
        (
            {"tools": [marking(str | int)]},
            "the tool 'mark' takes a Box, and its argument image is .*'string'.*, wanted an int",
        ),
        ({"tools": [marking(Any)]}, "the tool 'mark' takes a Box, and its argument image is {}, wanted an int"),
        ({"tools": [Tool(marking(int), name="web_search")]}, "called web_search, by which models mean our search"),
        ({"tools": ["zoom"]}, "got the tool 'zoom', wanted a Tool or a typed function"),
        ({"tools": [zoom_tool(), zoom_tool()]}, "got two tools called zoom"),
        ({"model": 5}, "got a model of the type int"),
        ({"model": "gpt-9"}, "got the model 'gpt-9', wanted nano, a folder that holds a checkpoint"),
    ],
)
def test_a_wrong_argument_is_told_at_once(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(FoveateError, match=told):
        Agent(**{"model": ScriptedReasoner([]), **wrong})


@pytest.mark.parametrize("hint", [int, float, int | None, Literal[0, 1]])
def test_the_image_of_a_box_is_a_number_or_none(hint: Any) -> None:
    (tool,) = tools_of([marking(hint)])
    assert tool.name == "mark"


@pytest.mark.parametrize(("thread", "budget"), [(5, None), ("trip", {"turns": 1})])
def test_a_wrong_argument_of_a_question_is_told_at_once(thread: Any, budget: Any) -> None:
    with scripted(answer("K7")) as agent, pytest.raises(InputError, match="got the"):
        agent.ask("What?", thread=thread, budget=budget)


def test_a_plain_function_is_a_tool() -> None:
    def count() -> str:
        """Count."""
        return "5"

    call = '<tool_call>{"name":"count","arguments":{}}</tool_call>'
    with Agent(ScriptedReasoner([call, answer("K7")]), tools=[count]) as agent:
        assert agent.ask("What?").steps[1].text == "5"


def test_a_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with Agent(ScriptedReasoner([answer("K7")]), tools=(), checkpoint="~/talk.sqlite") as agent:
        assert len(agent.ask("What?", "~/a.png", thread="trip").images) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "talk.sqlite", "talk.sqlite.images"}


def test_a_closed_agent_says_so() -> None:
    agent = scripted(answer("K7"))
    asked = agent.stream("What?")
    agent.close()
    for act in (lambda: next(asked), lambda: agent.ask("What?"), lambda: agent.exchanges("trip")):
        with pytest.raises(InputError, match="the agent is closed"):
            act()


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


def test_an_interrupt_before_the_run_begins_is_not_lost() -> None:
    with Agent(ScriptedReasoner([answer("K7")])) as agent:
        assert not agent.cancel()
        events = agent.stream("What?")
        with pytest.raises(KeyboardInterrupt), cancel_on_interrupt(agent.cancel):
            os.kill(os.getpid(), signal.SIGINT)
        assert isinstance(list(events)[-1], RunDone)


def test_closing_the_iterator_cancels() -> None:
    agent, reasoner = slow(ENDLESS)
    events = agent.stream("What?", thread="trip")
    next(events)
    events.close()
    reasoner.turns = [answer("K7")]
    assert agent.ask("And now?", thread="trip").text == "K7"


def test_a_stream_that_is_dropped_ends_its_run_and_keeps_nobody_waiting() -> None:
    """Garbage is collected in any thread, also in one that holds what the run waits for."""
    held, waits = threading.Lock(), threading.Event()

    def turn(messages: Sequence[Message]) -> str:
        if len(messages) == 1:
            return "<tool_call>none</tool_call>"
        waits.set()
        with held:
            return answer("K7")

    with Agent(ScriptedReasoner(turn), tools=(), checkpoint=":memory:") as agent:
        with held:
            events = agent.stream("What?", thread="trip")
            next(events)
            assert waits.wait(timeout=10)
            circle: list[Any] = [events]
            circle.append(circle)
            del events, circle
            gc.collect()
            with pytest.raises(InputError, match="still answering"):
                ended_within(agent, 0.3)
        assert agent.ask("And now?", thread="trip").text == "K7"
        assert [exchange.answer.status for exchange in agent.exchanges("trip")] == ["cancelled", "answered"]


def ended_within(agent: Agent, seconds: float) -> None:
    """Raises InputError while the conversation is answering after that time."""
    time.sleep(seconds)
    with agent._lock:
        agent._refuse_busy("trip")


@pytest.mark.parametrize("begun", [True, False])
def test_a_stream_is_cancelled_from_another_thread(begun: bool) -> None:
    agent, reasoner = slow(ENDLESS)
    with agent, ThreadPoolExecutor(1) as pool:
        events = agent.stream("What?", thread="trip")
        if not begun:
            events.cancel()
        listed = pool.submit(list, events)
        if begun:
            assert reasoner.writing.wait(timeout=10)
            events.cancel()
        *_, last = listed.result(timeout=10)
        assert isinstance(last, RunDone)
        assert last.answer.status == "cancelled"
        assert list(events) == []


def test_an_interrupt_while_waiting_cancels() -> None:
    agent, reasoner = slow(ENDLESS)
    events = agent.stream("What?", thread="trip")
    next(events)
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        list(events)
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


def test_one_conversation_is_cancelled_and_the_other_goes_on() -> None:
    agent, _ = slow(ENDLESS)
    first, second = agent.stream("What?", thread="first"), agent.stream("What?", thread="second")
    assert isinstance(next(first), TextDelta)
    assert isinstance(next(second), TextDelta)
    assert not agent.cancel("third")
    assert agent.cancel("first")
    assert [event.answer.status for event in first if isinstance(event, RunDone)] == ["cancelled"]
    assert isinstance(next(second), TextDelta)
    assert agent.unfinished("second") == "What?"
    agent.close()


def test_a_question_whose_thread_cannot_start_leaves_the_conversation_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with scripted(answer("K7")) as agent:
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", cannot)
            with pytest.raises(RuntimeError, match="start new thread"):
                agent.ask("What?", thread="trip")
        assert not agent.cancel()
        assert agent.ask("What?", thread="trip").text == "K7"


def test_the_tools_of_today_are_explained(tmp_path: Path) -> None:
    where, dialect = tmp_path / "talk.sqlite", replace(NANO, wants_system_prompt=True)
    for tools in ([zoom_tool()], []):
        reasoner = ScriptedReasoner(lambda _: answer("K7"), dialect=dialect)
        with Agent(reasoner, tools=tools, checkpoint=where) as agent:
            agent.ask("What?", thread="trip")
        assert ("zoom" in reasoner.seen[-1][0]["content"]) == bool(tools)
    assert [message["role"] for message in reasoner.seen[-1]] == ["system", "user", "assistant", "user"]


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


def test_a_call_is_told_to_end_when_the_time_is_up() -> None:
    call = '<tool_call>{"name":"sleep","arguments":{}}</tool_call>'
    sleeper, start = Sleeper(), time.monotonic()
    with Agent(ScriptedReasoner([call * 2]), tools=[sleeper], budget=Budget(seconds=0.2)) as agent:
        found = agent.ask("What?")
    assert time.monotonic() - start < 5
    assert (found.status, found.reason[:12]) == ("out_of_budget", "seconds: 0.2")
    assert [step.text for step in found.steps[1:]] == ["woken", "not run: the time is up"]


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
def test_cells_that_are_cancelled_leave_their_variables_to_the_follow_up() -> None:
    def stop(events: EventStream, by: str) -> None:
        if by == "close":
            events.close()
        elif by == "cancel":
            agent.cancel()
        else:
            threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
        with cancel_on_interrupt(agent.cancel):
            list(events)

    turns = [python("kept = 42"), *[python("while True: pass")] * 3, python("print(kept)"), answer("42")]
    told = "python: the code was cancelled and was interrupted; variables are kept"
    with Agent(ScriptedReasoner(turns), tools=[PythonTool()], checkpoint=":memory:") as agent:
        for by in ("cancel", "close", "signal"):
            events = agent.stream("What?", thread="trip")
            while not (isinstance(event := next(events), ToolStarted) and "while" in event.arguments["code"]):
                pass
            time.sleep(0.2)  # the endless cell runs
            start = time.monotonic()
            stop(events, by)
            assert time.monotonic() - start < 5
            stopped = agent.exchanges("trip")[-1].answer
            assert stopped.status == "cancelled"
            assert (stopped.steps[-1].failed, stopped.steps[-1].text) == (True, told)
        followed = agent.ask("And now?", thread="trip")
        assert (followed.steps[1].text, followed.text) == ("42", "42")


@needs_bubblewrap
def test_code_sees_the_image_that_a_number_means_now() -> None:
    """Where a turn was taken back, its crop gives its number to the next picture."""
    look = python("from PIL import Image; print(Image.open('image_1.png').size)")
    turns = [zoom(0, 0, 0, 250, 250) + look, "", look, answer("K7")]

    def turn(_: Sequence[Message]) -> str:
        if len(reasoner.seen) == 2:
            raise InputError("too long")
        return turns[len(reasoner.seen) - 1]

    reasoner = ScriptedReasoner(turn)
    with Agent(reasoner, tools=[zoom_tool(), PythonTool()], checkpoint=":memory:") as agent:
        failed = agent.ask("What?", Image.new("RGB", (640, 480)), thread="t")
        assert (failed.reason, [step.text for step in failed.steps[1:]]) == ("too long", ["image 1", "(160, 120)"])
        followed = agent.ask("And this?", Image.new("RGB", (320, 240)), thread="t")
    assert (followed.steps[1].text, followed.text) == ("(320, 240)", "K7")


def test_turns_of_many_calls_end_with_the_budget() -> None:
    call = '<tool_call>{"name":"count","arguments":{}}</tool_call>'
    reasoner = ScriptedReasoner(lambda _: call * (MAX_CALLS + 3))
    with Agent(reasoner, tools=[Counter([])], budget=Budget(turns=5)) as agent:
        found = agent.ask("What?")
    assert (found.reason, found.usage.tool_calls) == ("turns: 5 of 5 used", 4 * MAX_CALLS)


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


def test_closing_the_agent_closes_the_tools_of_a_stream_that_nobody_reads_on() -> None:
    call = '<tool_call>{"name":"count","arguments":{}}</tool_call>'
    log: list[str] = []
    agent = Agent(ScriptedReasoner([call, answer("K7")]), tools=[Counter(log)])
    events = agent.stream("What?")
    next(events)
    agent.close()
    assert log == ["open", "close"]
    events.close()
    assert log == ["open", "close"]


def test_tools_read_the_context_variables_of_who_asks() -> None:
    request = contextvars.ContextVar("request", default="none")

    def whose() -> str:
        """Whose request it is."""
        return request.get()

    call = '<tool_call>{"name":"whose","arguments":{}}</tool_call>'
    with Agent(ScriptedReasoner([call, answer("K7")]), tools=[whose]) as agent:
        request.set("of Ada")
        assert agent.ask("What?").steps[1].text == "of Ada"


def test_a_question_that_a_failing_model_never_read_may_be_asked_again() -> None:
    def turn(_: Sequence[Message]) -> str:
        if len(reasoner.seen) == 1:
            raise ModelError("the endpoint says 503")
        return answer("K7")

    reasoner = ScriptedReasoner(turn)
    with Agent(reasoner, tools=(), checkpoint=":memory:") as agent:
        picture = Image.new("RGB", (64, 48))
        failed, given = (agent.ask("What?", picture, thread="trip") for _ in range(2))
        assert (failed.status, given.text, len(given.images)) == ("error", "K7", 1)
    assert [message["role"] for message in reasoner.seen[-1]] == ["user"]


def test_a_conversation_that_is_released_gets_new_tools() -> None:
    call = '<tool_call>{"name":"count","arguments":{}}</tool_call>'
    log: list[str] = []
    with Agent(ScriptedReasoner([call, answer("K7")] * 2), tools=[Counter(log)], checkpoint=":memory:") as agent:
        agent.ask("What?", thread="trip")
        agent.release("trip")
        agent.release("trip")
        assert log == ["open", "close"]
        assert agent.ask("What?", thread="trip").steps[1].text == "1"


def test_of_many_conversations_the_last_keep_their_tools() -> None:
    call = '<tool_call>{"name":"count","arguments":{}}</tool_call>'
    log: list[str] = []
    turns = [call, answer("K7")] * (MOST_OPEN + 3)
    with Agent(ScriptedReasoner(turns), tools=[Counter(log)], checkpoint=":memory:") as agent:
        for number in (*range(MOST_OPEN), 0, MOST_OPEN):  # the first was asked again, so the second goes
            agent.ask("What?", thread=f"trip {number}")
        assert (log.count("open"), log.count("close")) == (MOST_OPEN + 1, 1)
        assert agent.ask("What?", thread="trip 0").steps[1].text == "3"


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
    for module in ("agent", "running"):
        monkeypatch.setattr(f"foveate.agent.{module}.CLOSE_PATIENCE_S", 0.2)
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
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        list(events)
    assert time.monotonic() - start < 5
    let_go.set()
    agent.close()


def test_a_stream_that_was_ended_by_force_is_closed_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.agent.running.CLOSE_PATIENCE_S", 0.1)
    let_go = threading.Event()
    run = Run(thread=None, tools=(), worker=threading.Thread(target=let_go.wait, args=(10,)))
    run.events.put(KeyboardInterrupt())
    run.worker.start()
    events = EventStream(lambda: run)
    with pytest.raises(KeyboardInterrupt):
        next(events)
    events.close()
    assert run.worker.is_alive()
    let_go.set()
    run.worker.join()


def test_a_stream_that_is_closed_while_it_begins_ends() -> None:
    run = Run(thread=None, tools=())
    run.events.put(TextDelta(text="late"))

    def begin() -> Run:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(events.close).result(timeout=10)
        return run

    events = EventStream(begin)
    assert list(events) == []
    assert run.cancelled


@pytest.mark.parametrize("make", [lambda: None, lambda: 5])
def test_what_a_users_tool_returns_is_shown_as_text(make: Callable[[], Any]) -> None:
    call = '<tool_call>{"name":"make","arguments":{}}</tool_call>'
    with Agent(ScriptedReasoner([call, answer("K7")]), tools=[Tool(make, name="make")]) as agent:
        assert agent.ask("What?").steps[1].text == str(make())


def test_a_hundred_questions_leave_nothing_behind(tmp_path: Path) -> None:
    def held() -> tuple[int, int]:
        gc.collect()
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def ask(number: int) -> None:
        assert agent.ask("What?", noise(64, 48, number)).text == "K7"
        reasoner.seen.clear()

    reasoner, store = ScriptedReasoner([answer("K7")]), ImageStore(tmp_path, memory_bytes=2**20)
    with Agent(reasoner, tools=(), store=store) as agent:
        for number in range(20):
            ask(number)
        threads, files = held()
        tracemalloc.start()
        for number in range(20, 120):
            ask(number)
        threads_after, files_after = held()
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert threads_after <= threads
    assert files_after <= files
    assert grown < 3 * 2**20
    assert store._images.held_bytes <= 2**20
