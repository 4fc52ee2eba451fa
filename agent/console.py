"""A run in the terminal: what the agent thinks, which box it looks at, what it computed, as it happens.

`LiveSteps` takes the events of a run and writes one block for each finished step; on a real terminal a single moving
line below them shows the text that the model is writing. Boxes have the colours of the trace page. Text from models
and tools is never read as markup and holds no escape sequence (`foveate.agent.plain`).
"""

import re
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from foveate.agent.marks import COLOURS
from foveate.agent.plain import one_line, printable
from foveate.agent.records import Answer, Event, RunDone, Step, StepDone, TextDelta, ToolStarted, Usage

SYMBOLS = {"think": "·", "zoom": "⌕", "python": "›", "search": "?", "tool": "+", "answer": "✓", "error": "!"}
ASCII_SYMBOLS = {"think": ".", "zoom": "o", "python": ">", "search": "?", "tool": "+", "answer": "=", "error": "!"}
PASSAGE_LIMIT = 240
OUTPUT_LINES = 8
LIVE_LIMIT = 400
_TAG = re.compile(r"</?(?:think|tool_call|tool_response|answer)>?|<\|[^|>]*\|?>?")


class LiveSteps:
    """Shows the events of one run on a console; a context manager.

    `answer` says whether the answer itself is shown: the REPL wants it, `foveate ask` writes it to stdout.
    """

    def __init__(self, console: Console, *, answer: bool) -> None:
        self._console = console
        self._shows_answer = answer
        self._text = ""
        self._num_crops = 0
        self._live = Live(console=console, transient=True, refresh_per_second=10) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
            self._say("looking")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: Event) -> None:
        """Write what the event tells."""
        match event:
            case TextDelta(text=text):
                self._text += text
                self._say(_live_line(self._text))
            case ToolStarted(tool=tool):
                self._say(f"{one_line(tool)} runs")
            case StepDone(step=step):
                self._text = ""
                if _says_something(step) and (step.kind != "answer" or self._shows_answer):
                    self._console.print(self._block(step))
                self._say("looking" if step.kind == "tool" else "")
            case RunDone():
                self._say("")

    def _say(self, text: str) -> None:
        if self._live is not None:
            limit = max(8, self._console.width - 4)
            line = Text(
                text if cell_len(text) <= limit else f"…{set_cell_size(text[::-1], limit - 1)[::-1]}", style="dim"
            )
            self._live.update(
                Spinner("line" if _is_ascii(self._console) else "dots", line, style="dim") if text else ""
            )

    def _block(self, step: Step) -> RenderableType:
        if step.box_px is not None:
            self._num_crops += 1
        return step_block(step, num_crops=self._num_crops, ascii_only=_is_ascii(self._console))


def step_block(step: Step, *, num_crops: int = 0, ascii_only: bool = False) -> RenderableType:
    """A step as a symbol and wrapped text beside it; `num_crops` counts the crops of the run up to this step."""
    name = step.tool if step.tool in SYMBOLS else step.kind
    colour = COLOURS[(num_crops - 1) % len(COLOURS)] if step.box_px is not None and num_crops else "cyan"
    style = "red" if step.failed or step.kind == "error" else {"think": "dim", "answer": "green"}.get(step.kind, colour)
    grid = Table.grid(padding=(0, 1), expand=False)
    grid.add_column(width=2, justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    symbol = (ASCII_SYMBOLS if ascii_only else SYMBOLS)[name or "tool"]
    grid.add_row(Text(symbol, style=style), _step_text(step, style, ascii_only=ascii_only))
    return grid


def answer_block(answer: Answer, *, ascii_only: bool = False) -> RenderableType:
    """A whole run: every step, how it ended and what it used."""
    blocks: list[RenderableType] = []
    num_crops = 0
    for step in filter(_says_something, answer.steps):
        num_crops += step.box_px is not None
        blocks.append(step_block(step, num_crops=num_crops, ascii_only=ascii_only))
    return Group(*blocks, closing_line(answer))


def closing_line(answer: Answer) -> Text:
    """How the run ended, if not with an answer, and what it used."""
    line = Text("   ")
    if answer.status != "answered":
        line.append(f"{ending(answer)}   ", style="yellow")
    return line.append(usage_line(answer.usage), style="dim")


def ending(answer: Answer) -> str:
    """Why a run ended, in one line: its status, and its reason if that says more."""
    status, reason = answer.status_text, one_line(answer.reason, 2000)
    if not reason:
        return status
    return reason if reason.startswith(status) else f"{status}: {reason}"


def usage_line(usage: Usage) -> str:
    """``3 turns · 2 tool calls · 96 policy tokens · 410 image tokens · 1.4 s``, without what is zero."""
    counts = {
        "turn": usage.turns,
        "tool call": usage.tool_calls,
        "policy token": usage.policy_tokens,
        "image token": usage.image_tokens,
    }
    parts = [f"{count:,} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count]
    return " · ".join([*parts, f"{usage.seconds:.1f} s"])


def total_usage(usages: Iterable[Usage]) -> Usage:
    """The sum of several runs."""
    usages = list(usages)
    return Usage(
        turns=sum(usage.turns for usage in usages),
        policy_tokens=sum(usage.policy_tokens for usage in usages),
        image_tokens=sum(usage.image_tokens for usage in usages),
        tool_calls=sum(usage.tool_calls for usage in usages),
        seconds=sum(usage.seconds for usage in usages),
    )


def _says_something(step: Step) -> bool:
    """Not so of a thought that was cut off before its first word."""
    return step.kind != "think" or bool(step.text.strip())


def _is_ascii(console: Console) -> bool:
    return console.options.ascii_only


def _live_line(text: str) -> str:
    """The end of what the model is writing, without its tags; a call is announced, not spelled out."""
    if "<tool_call>" in text:
        name = re.search(r'"name"\s*:\s*"([A-Za-z_]+)"', text)
        return f"calls {name[1] if name else 'a tool'}"
    return one_line(_TAG.sub(" ", text[-LIVE_LIMIT:]), limit=LIVE_LIMIT)


def _step_text(step: Step, style: str, *, ascii_only: bool) -> Text:
    if step.kind == "think":
        return Text(printable(step.text), style="dim italic")
    if step.kind == "answer":
        return Text(printable(step.text), style="bold")
    if step.kind == "error":
        return Text(printable(step.text), style=style)
    line = Text.assemble((one_line(step.tool or "tool"), style), "  ", _call_text(step))
    arrow = "->" if ascii_only else "→"
    if step.failed:
        return line.append(f"\n{arrow} {_shortened(step.text)}", style="red")
    if step.box_px is not None:
        x0, y0, x1, y1 = step.box_px
        times = "x" if ascii_only else "×"
        place = f"{x1 - x0:.0f} {times} {y1 - y0:.0f} px at {x0:.0f}, {y0:.0f}"
        return line.append(f"  {place} {arrow} {one_line(step.text, 40)}", style="dim")
    if step.text:
        line.append(f"\n{arrow} {_shortened(step.text)}", style="default")
    return line


def _call_text(step: Step) -> str:
    arguments = step.arguments or {}
    match step.tool, arguments:
        case "zoom", {"image": number}:
            return f"image {one_line(str(number), 20)}"
        case "python", {"code": str(code)}:
            return printable(code.strip("\n")) if "\n" not in code.strip() else "\n" + printable(code.strip("\n"))
        case "search", {"query": str(query)}:
            return f'"{one_line(query)}"'
    return one_line(str(arguments))


def _shortened(text: str) -> str:
    lines = printable(text).strip("\n").split("\n")
    shown = "\n".join(lines[:OUTPUT_LINES]) + ("\n…" if len(lines) > OUTPUT_LINES else "")
    return shown if len(shown) <= PASSAGE_LIMIT * 2 else shown[: PASSAGE_LIMIT * 2].rstrip() + "…"
