"""A conversation as a file to keep: Markdown to read, JSON to work with."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from foveate.agent.plain import one_line, printable
from foveate.agent.replacing import replaced
from foveate.agent.state import Exchange
from foveate.errors import InputError

SCHEMA_VERSION = 1
SUFFIXES = (".md", ".json")


def write_conversation(exchanges: Sequence[Exchange], path: Path, *, replace: bool = False) -> None:
    """Write the conversation to `path`, in the form that its suffix names.

    InputError for another suffix, and for a file that is there unless `replace` says so; OSError when it cannot be
    written, and then what was there before still is.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"got the file {path.name!r}, wanted a name that ends in {' or '.join(SUFFIXES)}")
    text = conversation_text(exchanges, as_json=path.suffix == ".json")
    try:
        (_replace if replace and path.exists() else _create)(path, text)
    except FileExistsError:
        raise InputError(f"{path} is there already; give another name, or replace it with /save -f FILE") from None


def _create(path: Path, text: str) -> None:
    """Write a file that is not there; none is left where that fails."""
    with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            path.unlink()
            raise


def _replace(path: Path, text: str) -> None:
    """Write a file anew, which stays as it was where that fails."""
    path = path.resolve()
    try:
        with replaced(path) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
            shutil.copymode(path, part)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def conversation_text(exchanges: Sequence[Exchange], *, as_json: bool) -> str:
    """Every question with its answer; the JSON holds the steps as ``foveate ask --json`` prints them."""
    if as_json:
        records = [{"question": exchange.question, **exchange.answer.to_json()} for exchange in exchanges]
        return json.dumps({"schema_version": SCHEMA_VERSION, "exchanges": records}, indent=2) + "\n"
    return "\n".join(_section(exchange) for exchange in exchanges)


def _section(exchange: Exchange) -> str:
    """Text from outside stands in indented blocks, where Markdown gives no sign a meaning."""
    answer = exchange.answer
    lines = ["## Question", "", _indented(exchange.question), ""]
    for step in answer.steps:
        if step.kind == "tool":
            lines += [
                f"`{one_line(step.tool or 'tool').replace('`', '')}`",
                "",
                _indented(f"{step.arguments}\n{step.text}"),
                "",
            ]
        elif step.kind != "answer" and step.text:
            lines += [_indented(step.text), ""]
    lines += [f"## Answer ({answer.status_text})", "", _indented(answer.text or answer.reason), ""]
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in printable(text).split("\n"))
