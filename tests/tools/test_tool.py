"""Tools made of plain functions, and `perform`: whatever a model or a tool does wrong becomes a result it can read."""

import functools
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveate.errors import ConfigError, SearchError
from foveate.tools import Tool, ToolCall, ToolResult, default_tools, perform


def count_words(text: str) -> str:
    """Count words.

    Args:
        text: Any text.
    """
    return str(len(text.split()))


def mirror(images: Sequence[Image.Image], image: int) -> Image.Image:
    """Mirror an image."""
    return images[image].transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def search_that_fails(query: str) -> str:
    """Fail."""
    raise SearchError(f"no index for {query}; build it")


def crash(depth: int) -> str:
    """Crash."""
    raise RuntimeError(f"at depth {depth}")


TOOLS = [Tool(count_words), Tool(mirror, wants_images=True), Tool(search_that_fails), Tool(crash)]
IMAGES = [Image.new("RGB", (6, 4), "red")]


def call(name: str, **arguments: object) -> ToolResult:
    return perform(TOOLS, ToolCall(id="1", name=name, arguments=arguments), IMAGES)


def test_schema_is_the_one_that_chat_models_read() -> None:
    tool = Tool(count_words)
    assert (tool.name, tool.description) == ("count_words", "Count words.")
    assert tool.parameters == {
        "type": "object",
        "properties": {"text": {"type": "string", "description": "Any text."}},
        "required": ["text"],
        "additionalProperties": False,
    }


def test_images_are_not_an_argument_of_the_model() -> None:
    assert list(Tool(mirror, wants_images=True).parameters["properties"]) == ["image"]


def test_text_and_images_become_results() -> None:
    assert call("count_words", text="two words") == ToolResult(text="2")
    picture = call("mirror", image=0).image
    assert picture is not None
    assert picture.size == (6, 4)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("fly", {}, "fly: there is no tool 'fly'; use count_words, mirror, search_that_fails, crash"),
        ("count_words", {"text": 3}, "count_words: text is 3; give a string"),
        ("search_that_fails", {"query": "x"}, "search_that_fails: no index for x; build it"),
        ("crash", {"depth": 2}, "crash failed: RuntimeError: at depth 2"),
        ("mirror", {"image": 7}, "mirror failed: IndexError: list index out of range"),
    ],
)
def test_failures_are_results(name: str, arguments: dict[str, object], told: str) -> None:
    assert call(name, **arguments) == ToolResult(text=told, failed=True)


@pytest.mark.parametrize(
    ("returned", "wrong"),
    [
        ({"text": None}, "text None, wanted a string"),
        ({"text": 5}, "text 5, wanted a string"),
        ({"image": "a.png"}, "image 'a.png', wanted a PIL image or None"),
        ({"source_idx": 0.0}, "source_idx 0.0, wanted an integer or None"),
        ({"source_idx": True}, "source_idx True, wanted an integer or None"),
        ({"box_px": (1, 2, 3)}, r"box_px (1, 2, 3), wanted four finite numbers or None"),
        ({"box_px": 5}, "box_px 5, wanted four finite numbers or None"),
        ({"box_px": "0123"}, "box_px '0123', wanted four finite numbers or None"),
        ({"box_px": (0, 0, True, 5)}, "box_px (0, 0, True, 5), wanted four finite numbers or None"),
        ({"box_px": (0, 0, 5, float("nan"))}, "box_px (0, 0, 5, nan), wanted four finite numbers or None"),
    ],
)
def test_a_result_with_wrong_values_is_a_failure(returned: dict[str, Any], wrong: str) -> None:
    def make() -> ToolResult:
        return ToolResult(**returned)

    found = perform([Tool(make)], ToolCall(id="1", name="make", arguments={}), [])
    assert found == ToolResult(text=f"make: it returned a ToolResult with the {wrong}", failed=True)


def test_a_tool_of_ones_own_that_returns_no_result_fails() -> None:
    class Wrong(Tool):
        def call(self, arguments: dict[str, Any], images: Sequence[Image.Image]) -> Any:
            return f"{len(arguments)} {len(images)}"

    found = perform([Wrong(crash)], ToolCall(id="1", name="crash", arguments={}), [])
    assert found == ToolResult(text="crash: it returned '0 0', wanted a ToolResult", failed=True)


def test_whole_results_pass() -> None:
    result = ToolResult(text="a", image=IMAGES[0], source_idx=0, box_px=(0, np.int64(1), 2.5, np.float64(3)))
    assert perform([Tool(lambda: result, name="a")], ToolCall(id="1", name="a", arguments={}), []) is result


async def later(text: str) -> str:
    return text


async def stream(text: str) -> AsyncIterator[str]:
    yield text


def pieces(text: str) -> Iterator[str]:
    yield text


class Caller:
    def __call__(self, text: str) -> str:
        return text


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (later, "'later' is async or yields"),
        (stream, "'stream' is async or yields"),
        (pieces, "'pieces' is async or yields"),
        (functools.partial(count_words, "a"), "got the tool functools.partial"),
        (Caller(), r"got the tool <.*Caller object"),
        (Caller, r"got the tool <class .*Caller'>"),
        (max, "got the tool <built-in function max>"),
    ],
)
def test_what_is_no_plain_function_is_no_tool(function: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=f"{told}.*, wanted a function"):
        Tool(function)


def test_methods_and_wrapped_functions_are_tools() -> None:
    for function in (Caller().__call__, functools.cache(count_words)):
        assert list(Tool(function, name="a").parameters["properties"]) == ["text"]


def test_ctrl_c_is_no_failure_of_a_tool() -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform([Tool(interrupted)], ToolCall(id="1", name="interrupted", arguments={}), [])


def test_a_tool_that_leaves_the_process_fails() -> None:
    leave = Tool(lambda: sys.exit(3), name="leave")
    told = perform([leave], ToolCall(id="1", name="leave", arguments={}), [])
    assert told == ToolResult(text="leave failed: SystemExit: 3", failed=True)


def test_a_call_is_cancelled_when_its_time_is_up_until_it_ends() -> None:
    class Deaf(Tool):
        """Heeds the third time that it is told to end."""

        def __init__(self) -> None:
            super().__init__(self.wait, name="wait")
            self.told, self.heeded = 0, threading.Event()

        def wait(self) -> str:
            return str(self.heeded.wait(10))

        def cancel(self) -> None:
            self.told += 1
            if self.told == 3:
                self.heeded.set()

    tool = Deaf()
    assert perform([tool], ToolCall(id="1", name="wait", arguments={}), [], seconds=0.01) == ToolResult(text="True")
    assert tool.told == 3
    perform([tool], ToolCall(id="1", name="wait", arguments={}), [], seconds=5)
    assert tool.told == 3


def test_a_plain_tool_may_be_cancelled_and_goes_on() -> None:
    TOOLS[0].cancel()
    assert call("count_words", text="two words") == ToolResult(text="2")


def test_default_tools_keep_state_per_run() -> None:
    tools = default_tools()
    assert [tool.name for tool in tools] == ["zoom", "python", "search"]
    for_run = [tool.for_run() for tool in tools]
    assert for_run[0] is tools[0]
    assert for_run[1] is not tools[1]
    for tool in for_run:
        tool.close()
        tool.close()
