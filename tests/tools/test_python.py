"""The python tool as a model meets it: short text, the failing line of an error, a kernel per run, with its limits."""

import math
import re
import threading
from pathlib import Path

import pytest
from needs import needs_bubblewrap
from PIL import Image

from foveate.errors import ConfigError
from foveate.tools import PythonTool, ToolCall, ToolResult, default_tools, perform
from foveate.tools.python import NEW_KERNEL, shortened
from foveate.tools.sandbox import Limits

IMAGES = [Image.new("RGB", (6, 4), "red")]


def run(tool: PythonTool, code: object) -> ToolResult:
    return perform([tool], ToolCall(id="1", name="python", arguments={"code": code}), IMAGES)


@needs_bubblewrap
def test_what_the_model_reads() -> None:
    tool = PythonTool(timeout_s=10, max_chars=120).for_run()
    try:
        assert run(tool, "print(4.5+3.2)").text == "7.7"
        assert run(tool, "x = 1").text == "(no output)"
        failed = run(tool, "print('so far')\nx = [][3]")
        assert (failed.failed, failed.text) == (True, "so far\nline 2: IndexError: list index out of range")
        assert "IndexError" in failed.details["traceback"]
        long = run(tool, "print('a' * 500 + 'end')")
        assert len(long.text) <= 120
        assert "characters left out" in long.text
        assert long.text.endswith("end")
        assert len(long.details["output"]) == 504
        drawn = run(tool, "from PIL import Image; Image.open('image_0.png')").image
        assert drawn is not None
        assert drawn.size == (6, 4)
        several = run(
            tool, "from PIL import Image\nfor n in (1, 2, 3): display(Image.new('L', (n, n)))\nprint('drawn')"
        )
        assert several.text == "drawn\n(picture 3 of 3 is shown)"
        assert several.image is not None
        assert several.image.size == (3, 3)
    finally:
        tool.close()


@needs_bubblewrap
def test_a_lost_kernel_is_told_and_replaced() -> None:
    tool = PythonTool()
    lost = run(tool, "import os; os._exit(0)")
    assert lost.failed
    assert "variables are lost" in lost.text
    assert run(tool, "print(len(__import__('os').listdir('.')))").text != "0"
    assert run(tool, "gone").text == "line 1: NameError: name 'gone' is not defined"
    tool.close()
    assert run(tool, "gone").text == f"line 1: NameError: name 'gone' is not defined\n{NEW_KERNEL}"
    tool.close()
    assert run(tool, "print('a new one')").text == "a new one"
    tool.close()


@needs_bubblewrap
def test_a_cancel_ends_the_call_and_keeps_the_variables() -> None:
    tool = PythonTool()
    tool.cancel()
    assert run(tool, "kept = 42").text == "(no output)"
    results: list[ToolResult] = []
    call = threading.Thread(target=lambda: results.append(run(tool, "while True: pass")))
    call.start()
    while call.is_alive():
        call.join(0.2)
        tool.cancel()
    (cancelled,) = results
    assert cancelled.failed
    assert cancelled.text == "python: the code was cancelled and was interrupted; variables are kept"
    assert run(tool, "print(kept)").text == "42"
    tool.close()
    tool.cancel()


def test_the_limits_are_those_that_the_documentation_tells() -> None:
    page = (Path(__file__).parents[2] / "docs" / "agent.md").read_text()
    wanted = (
        r"a cell has (\d+) s, at most (\d+) processes and threads of (\d+) GiB each, and three folders of (\d+) MiB"
    )
    told = re.search(wanted, page)
    assert told is not None
    seconds, processes, gib, mib = map(int, told.groups())
    (python,) = (tool.for_run() for tool in default_tools() if isinstance(tool, PythonTool))
    limits = python.limits or Limits()
    assert (python.timeout_s, limits.processes) == (seconds, processes)
    assert (limits.memory_bytes, limits.work_bytes) == (gib * 2**30, mib * 2**20)


@needs_bubblewrap
def test_a_run_has_the_memory_of_its_tool() -> None:
    tool = PythonTool(limits=Limits(memory_bytes=512 * 2**20)).for_run()
    try:
        failed = run(tool, "x = bytearray(2**29)")  # which the usual limit allows
    finally:
        tool.close()
    assert failed.failed
    assert "MemoryError" in failed.text


@needs_bubblewrap
def test_a_run_has_the_time_of_its_tool() -> None:
    tool = PythonTool(timeout_s=0.5).for_run()
    try:
        late = run(tool, "while True: pass")
    finally:
        tool.close()
    assert late.failed
    assert late.text.startswith("python: the code ran longer than 0.5 s ")


@needs_bubblewrap
def test_a_call_may_take_as_long_as_it_likes() -> None:
    tool = PythonTool(timeout_s=math.inf)
    try:
        assert run(tool, "print(6 * 7)").text == "42"
    finally:
        tool.close()


@pytest.mark.parametrize("timeout_s", [math.nan, -1])
def test_a_time_that_no_call_can_have_is_refused(timeout_s: float) -> None:
    with pytest.raises(ConfigError, match=f"got timeout_s {timeout_s}, wanted 0 or more seconds"):
        PythonTool(timeout_s=timeout_s)


@pytest.mark.parametrize("code", [None, 3, ["print(1)"]])
def test_code_is_text(code: object) -> None:
    assert "code is" in run(PythonTool(), code).text


def test_shortened_keeps_head_and_tail() -> None:
    assert shortened("abc", 3) == "abc"
    short = shortened("a" * 100 + "b" * 100, 60)
    assert (len(short), short[0], short[-1]) == (60, "a", "b")
