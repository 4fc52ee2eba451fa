"""The input line of the REPL: history, several lines, completion of commands and paths.

Enter sends, Alt-Enter starts a new line. Without a terminal on stdin, lines are read as they come.
"""

import io
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_searching
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

PATH_COMMANDS = ("/image", "/trace", "/save", "/model")

ReadLine = Callable[[], str]
"""Returns what the user sent; raises EOFError at the end and KeyboardInterrupt for Ctrl-C."""


class LineCompleter(Completer):
    """Commands at the start of a line, paths after a command that takes one and for a word that looks like a path."""

    def __init__(self, commands: Mapping[str, str]) -> None:
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Completions of what stands before the cursor."""
        text = document.text_before_cursor
        command, space, rest = text.partition(" ")
        if command in PATH_COMMANDS and space:
            yield from self._paths.get_completions(Document(rest, len(rest)), complete_event)
        elif text.startswith("/") and "/" not in text[1:] and not space:
            for name, about in self._commands.items():
                if name.startswith(text):
                    yield Completion(name, start_position=-len(text), display_meta=about)
        elif text.startswith(("/", "./", "../", "~/")):
            yield from self._paths.get_completions(Document(text, len(text)), complete_event)


def line_reader(history: Path, commands: Mapping[str, str], toolbar: Callable[[], str]) -> ReadLine:
    """A reader for this process's stdin; `toolbar` gives the text below the line."""
    if sys.stdin is None or not sys.stdin.isatty():
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        return _read_plain

    def show_toolbar() -> StyleAndTextTuples:
        return [("fg:ansibrightblack", toolbar())]

    session: PromptSession[str] = PromptSession(
        message=[("bold ansicyan", "› " if (sys.stdout.encoding or "").lower().startswith("utf") else "> ")],
        history=_History(str(history)),
        completer=LineCompleter(commands),
        complete_while_typing=False,
        multiline=True,
        enable_suspend=True,
        key_bindings=_key_bindings(),
        prompt_continuation="  ",
        bottom_toolbar=show_toolbar,
        reserve_space_for_menu=4,
        style=Style.from_dict({"bottom-toolbar": "noreverse"}),
    )
    return session.prompt


class _History(FileHistory):
    """A file of what was typed; where it cannot be written, only this process remembers."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


def _read_plain() -> str:
    line = sys.stdin.readline() if sys.stdin is not None else ""
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _key_bindings() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter", filter=~is_searching)
    def send(event: KeyPressEvent) -> None:
        state = event.current_buffer.complete_state
        if state is not None and state.current_completion is not None:
            event.current_buffer.complete_state = None
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
