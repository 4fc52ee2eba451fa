"""`foveate ask`: one question about pictures, answered with its steps in view."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.cli.options import (
    USUAL,
    DeviceOption,
    ImageTokensOption,
    ModelOption,
    NetworkOption,
    NoToolsOption,
    SecondsOption,
    SeedOption,
    TemperatureOption,
    TokensOption,
    TurnsOption,
    UnsafeOption,
    budget_of,
    check_tools,
    tools_for,
)
from foveate.errors import ImageError, InputError
from foveate.models.device import AUTO
from foveate.paths import existing_file, expanded

if TYPE_CHECKING:
    from PIL.Image import Image

    from foveate.agent.agent import Agent
    from foveate.agent.records import Answer

EXIT_BY_STATUS = {"answered": 0, "out_of_budget": 1, "error": 1, "cancelled": 130}


def ask(
    context: typer.Context,
    inputs: Annotated[list[str], typer.Argument(metavar='IMAGE... "QUESTION"', help="Pictures, then the question.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    save_trace: Annotated[
        Path | None,
        typer.Option("--save-trace", metavar="DIR", help="Write DIR/trace.html and DIR/trace.json."),
    ] = None,
    model: ModelOption = "nano",
    device: DeviceOption = AUTO,
    max_turns: TurnsOption = USUAL.turns,
    max_tokens: TokensOption = USUAL.policy_tokens,
    max_image_tokens: ImageTokensOption = USUAL.image_tokens,
    max_seconds: SecondsOption = USUAL.seconds,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = None,
    network: NetworkOption = False,
    unsafe_code: UnsafeOption = False,
    no_tools: NoToolsOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live steps on stderr.")] = False,
) -> int:
    """Answer a question about one or more pictures."""
    paths, question = split_inputs(inputs)
    budget = budget_of(turns=max_turns, tokens=max_tokens, image_tokens=max_image_tokens, seconds=max_seconds)
    check_tools(no_tools=no_tools, network=network, unsafe=unsafe_code)
    folder = None if save_trace is None else made_folder(save_trace)
    from foveate.pictures import open_picture

    pictures = [open_picture(path) for path in paths]
    reasoner = context.obj(model, device)
    from foveate.agent.agent import Agent

    tools = tools_for(reasoner.dialect, no_tools=no_tools, network=network, unsafe=unsafe_code)
    with Agent(reasoner, tools=tools, budget=budget, temperature=temperature, seed=seed) as agent:
        answer = _answer_live(agent, question, pictures, quiet=quiet)
    _print(answer, as_json=as_json)
    if folder is not None:
        _save_trace(answer, question, agent, folder)
    return EXIT_BY_STATUS[answer.status]


def made_folder(path: Path) -> Path:
    """The folder of --save-trace, made when it is missing; InputError when it cannot be written."""
    folder = expanded(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"got --save-trace {path} ({error.strerror}), wanted a folder, which may be missing"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"got --save-trace {path}, which cannot be written; wanted a folder of yours")
    return folder


def split_inputs(inputs: list[str]) -> tuple[list[Path], str]:
    """The pictures and the question of a command line; InputError or ImageError says what is missing."""
    *pictures, question = inputs
    if not question.strip():
        raise InputError('got an empty question, wanted text: foveate ask IMAGE... "question"')
    if Path(question).suffix and existing_file(question):
        raise InputError(f'got no question after {question!r}, wanted: foveate ask IMAGE... "question"')
    if not pictures:
        raise InputError(f'got no picture before {question!r}, wanted: foveate ask IMAGE... "question"')
    for picture in pictures:
        if existing_file(picture) is None:
            raise ImageError(
                f"there is no picture {picture!r}; the last argument is the question, all before are files"
            )
    return [expanded(picture) for picture in pictures], question


def _answer_live(agent: "Agent", question: str, pictures: "list[Image]", *, quiet: bool) -> "Answer":
    """Run the question; a person at a terminal sees the steps, Ctrl-C ends the run with what there is."""
    from foveate.agent.interrupt import cancel_on_interrupt

    with cancel_on_interrupt(agent.cancel):
        if quiet or not sys.stderr.isatty():
            return agent.ask(question, pictures)
        return _shown(agent, question, pictures)


def _shown(agent: "Agent", question: str, pictures: "list[Image]") -> "Answer":
    from rich.console import Console

    from foveate.agent.console import LiveSteps, usage_line
    from foveate.agent.records import RunDone

    console = Console(stderr=True, highlight=False)
    with LiveSteps(console, answer=False) as steps:
        for event in agent.stream(question, pictures):
            steps.show(event)
            if isinstance(event, RunDone):
                console.print(f"   {usage_line(event.answer.usage)}", style="dim")
                return event.answer
    raise AssertionError("a stream ends with RunDone")


def _save_trace(answer: "Answer", question: str, agent: "Agent", folder: Path) -> None:
    from foveate.agent.trace import write_trace

    try:
        page = write_trace(answer, question, agent.image, folder)
    except OSError as error:
        raise InputError(f"the trace cannot be written to {folder}: {error.strerror}") from error
    print(f"trace: {page}", file=sys.stderr)


def _print(answer: "Answer", *, as_json: bool) -> None:
    from foveate.agent.plain import printable

    if as_json:
        print(json.dumps(answer.to_json()))
        return
    if answer.text:
        print(printable(answer.text))
    if answer.status not in ("answered", "cancelled"):  # `main` says it of an interrupt
        from foveate.agent.console import ending

        print(f"foveate: {ending(answer)}", file=sys.stderr)
