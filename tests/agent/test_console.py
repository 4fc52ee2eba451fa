"""What a terminal shows of a run: one block a step, plain text from outside, ASCII where nothing else can be shown."""

import io

import pytest
from rich.console import Console

from foveate.agent.console import LiveSteps, answer_block, ending, step_block, usage_line
from foveate.agent.records import Answer, Event, RunDone, Status, Step, StepDone, TextDelta, ToolStarted, Usage

THOUGHT = Step(kind="think", text="[bold]The label[/bold] \x1b[31mis small.")
ZOOM = Step(
    kind="tool",
    tool="zoom",
    text="image 1",
    arguments={"image": 0, "box": [1, 2, 3, 4]},
    box_px=(80.0, 60.0, 320.0, 180.0),
    image="c",
)
CODE = Step(kind="tool", tool="python", text="9\n", arguments={"code": "a = 4\nprint(a + 5)"})
FAILED = Step(kind="tool", tool="search", text="search: no network", arguments={"query": "x"}, failed=True)
END = Step(kind="answer", text="K7")
RUN = Answer(text="K7", status="answered", steps=(THOUGHT, ZOOM, CODE, FAILED, END), usage=Usage(turns=4), images=())


def shown(events: list[Event], *, answer: bool = True, terminal: bool = False) -> str:
    screen = io.StringIO()
    console = Console(file=screen, width=80, force_terminal=terminal)
    with LiveSteps(console, answer=answer) as steps:
        for event in events:
            steps.show(event)
    return screen.getvalue()


def test_each_step_is_one_block() -> None:
    lines = [line.rstrip() for line in shown([StepDone(step=step) for step in RUN.steps]).splitlines()]
    assert lines == [
        " · [bold]The label[/bold] \ufffd[31mis small.",
        " ⌕ zoom  image 0  240 × 120 px at 80, 60 → image 1",
        " › python",
        "   a = 4",
        "   print(a + 5)",
        "   → 9",
        ' ? search  "x"',
        "   → search: no network",
        " ✓ K7",
    ]


def test_what_a_model_calls_an_image_is_plain_text() -> None:
    step = Step(kind="tool", tool="zoom", text="refused", arguments={"image": "\x1b]0;owned\x07\n1"}, failed=True)
    assert shown([StepDone(step=step)]).splitlines()[0].rstrip() == " ⌕ zoom  image \ufffd]0;owned\ufffd 1"


def test_a_thought_without_words_is_no_block() -> None:
    assert shown([StepDone(step=Step(kind="think", text=" "))]) == ""


def test_the_answer_is_left_out_when_stdout_has_it() -> None:
    assert "K7" not in shown([StepDone(step=END)], answer=False)


def test_a_terminal_shows_what_is_being_written_without_its_tags() -> None:
    events: list[Event] = [TextDelta(text="<think>I look"), TextDelta(text=" closer")]
    screen = shown(events, terminal=True)
    assert "I look closer" in screen
    assert "<think>" not in screen
    assert shown([*events, RunDone(answer=RUN)]) == ""


def test_a_terminal_says_which_tool_runs_whatever_the_model_writes() -> None:
    events: list[Event] = [TextDelta(text="<code>print(1)"), StepDone(step=THOUGHT)]
    starts = ToolStarted(tool="py\x1bthon", arguments={"code": "print(1)"})
    assert "py\ufffdthon runs" in shown([*events, starts], terminal=True)


def test_everything_is_ascii_on_an_ascii_terminal() -> None:
    buffer = io.BytesIO()
    console = Console(file=io.TextIOWrapper(buffer, encoding="ascii", write_through=True), width=80)
    for step in (ZOOM, CODE, END):
        console.print(step_block(step, ascii_only=True))
    assert b"o zoom  image 0  240 x 120 px at 80, 60 -> image 1" in buffer.getvalue()


def test_a_whole_answer_renders_with_its_usage() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(answer_block(RUN))
    assert console.export_text().rstrip().endswith("4 turns · 0.0 s")


@pytest.mark.parametrize(
    ("status", "reason", "said"),
    [
        ("cancelled", "cancelled by the user", "cancelled by the user"),
        ("out_of_budget", "turns: 3 of 3 used", "out of budget: turns: 3 of 3 used"),
        ("error", "line\nbreak\x1b", "error: line break\ufffd"),
    ],
)
def test_the_end_of_a_run_in_words(status: Status, reason: str, said: str) -> None:
    assert ending(Answer(text="", status=status, reason=reason, steps=(), usage=Usage(), images=())) == said


def test_usage_leaves_out_what_is_zero() -> None:
    used = Usage(turns=1, tool_calls=0, policy_tokens=1234, image_tokens=1, seconds=1.26)
    assert usage_line(used) == "1 turn · 1,234 policy tokens · 1 image token · 1.3 s"
