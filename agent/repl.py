"""A conversation about pictures in the terminal.

A line is a question, a command that starts with "/", or the name of a picture file, which is added to the
conversation. Ctrl-C ends the run that goes on and keeps the conversation; Ctrl-D leaves. Nothing is kept here: after
any end of the process `foveate -c` goes on where the conversation was.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

from rich.console import Console
from rich.text import Text

from foveate.agent.console import LiveSteps, answer_block, closing_line, ending, step_block, total_usage, usage_line
from foveate.agent.export import conversation_text
from foveate.agent.interrupt import cancel_on_interrupt
from foveate.agent.line_editor import ReadLine
from foveate.agent.plain import one_line
from foveate.agent.records import Event, RunDone, Step
from foveate.agent.session import Session
from foveate.agent.state import Exchange
from foveate.agent.trace import write_trace
from foveate.errors import FoveateError, InputError
from foveate.paths import existing_file, expanded

COMMANDS = {
    "/image": "PATH: add a picture (typing just its path does the same)",
    "/images": "the pictures and crops of this conversation",
    "/steps": "the steps of the last answer once more",
    "/trace": "[DIR]: write the last answer's trace as a web page",
    "/save": "FILE: write the conversation (.md or .json)",
    "/usage": "what this conversation has used",
    "/resume": "go on with a question that was cut off",
    "/model": "[PATH|nano]: show the model, or start anew with another",
    "/new": "a new conversation",
    "/help": "this list",
    "/quit": "leave",
}
KEYS = "Enter sends, Alt-Enter starts a new line, Tab completes, Ctrl-C stops a run, Ctrl-D leaves."
SHOWN_ON_RESUME = 3


class Repl:
    """Reads lines until the user leaves and shows what the agent does."""

    def __init__(self, session: Session, console: Console) -> None:
        self._session = session
        self._console = console
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._add_picture,
            "/images": self._list_images,
            "/steps": self._show_steps,
            "/trace": self._write_trace,
            "/save": self._save,
            "/usage": self._show_usage,
            "/resume": self._go_on,
            "/model": self._change_model,
            "/new": self._start_anew,
            "/help": self._help,
        }

    def run(self, read: ReadLine) -> None:
        """Greet, then read and obey until the user leaves."""
        self._greet()
        while True:
            try:
                line = read().strip()
            except KeyboardInterrupt:
                self._say("Ctrl-D leaves")
                continue
            except EOFError:
                return
            if line in ("/quit", "/exit"):
                return
            if line:
                self._obey(line)

    def toolbar(self) -> str:
        """One line about the conversation."""
        waiting = len(self._session.waiting)
        added = f" · {_count(waiting, 'picture')} added" if waiting else ""
        return f" {Path(self._session.model).name}{added} · /help"

    def _greet(self) -> None:
        """What to do first; in a conversation that goes on, where it was."""
        exchanges, unfinished = self._session.history(), self._session.unfinished()
        if not exchanges and unfinished is None:
            self._say("foveate: type the path of a picture, then ask about it; /help lists the commands")
        else:
            self._say(f"going on after {_count(len(exchanges), 'question')}")
        for exchange in exchanges[-SHOWN_ON_RESUME:]:
            self._console.print(Text(f" › {one_line(exchange.question)}", style="cyan"))
            answer = exchange.answer
            end = Step(kind="answer", text=answer.text) if answer.text else Step(kind="error", text=ending(answer))
            self._console.print(step_block(end))
        if unfinished is not None:
            self._say(f"cut off: {one_line(unfinished)} (/resume goes on with it)")
        for path in self._session.waiting:
            self._say(f"added {path}")

    def _obey(self, line: str) -> None:
        try:
            if picture_path(line) is not None:
                self._add_picture(line)
            elif line.startswith("/"):
                name, _, rest = line.partition(" ")
                if name not in self._commands:
                    raise InputError(f"there is no command {name}; /help lists them")
                self._commands[name](rest.strip())
            else:
                self._show(self._session.ask(line))
        except KeyboardInterrupt:
            self._say("stopped")
        except (FoveateError, OSError) as error:
            self._console.print(Text(one_line(str(error), 2000), style="red"))

    def _show(self, events: Iterator[Event]) -> None:
        """Show a run; the first Ctrl-C asks it to end, the second ends it."""
        with cancel_on_interrupt(self._session.cancel), LiveSteps(self._console, answer=True) as steps:
            for event in events:
                steps.show(event)
                if isinstance(event, RunDone):
                    self._console.print(closing_line(event.answer))
        self._console.print()

    def _go_on(self, _: str) -> None:
        self._show(self._session.resume())

    def _add_picture(self, text: str) -> None:
        if not text:
            raise InputError("got no path, wanted /image PATH")
        path = picture_path(text) or expanded(text)
        width_px, height_px = self._session.add_picture(path).size
        self._say(f"added {path.name}, {width_px} x {height_px} px")

    def _list_images(self, _: str) -> None:
        exchanges = self._session.history()
        for number, record in enumerate(exchanges[-1].answer.images if exchanges else ()):
            x0, y0, x1, y1 = record.box_px
            kind = "picture" if record.original == record.sha256 else f"crop at {x0:.0f}, {y0:.0f}, {x1:.0f}, {y1:.0f}"
            self._say(f"image {number}: {kind}, {record.width_px} x {record.height_px} px")
        for path in self._session.waiting:
            self._say(f"added: {path}")

    def _show_steps(self, _: str) -> None:
        self._console.print(answer_block(self._last().answer))

    def _write_trace(self, folder: str) -> None:
        last = self._last()
        target = expanded(folder) if folder else Path("foveate-trace")
        self._say(f"wrote {write_trace(last.answer, last.question, self._session.image, target).absolute()}")

    def _save(self, file: str) -> None:
        if not file:
            raise InputError("got no file, wanted /save FILE (.md or .json)")
        path = expanded(file)
        text = conversation_text(self._session.history(), as_json=path.suffix == ".json")
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        self._say(f"wrote {path.absolute()}")

    def _show_usage(self, _: str) -> None:
        exchanges = self._session.history()
        total = total_usage(exchange.answer.usage for exchange in exchanges)
        self._say(f"{_count(len(exchanges), 'question')} · {usage_line(total)}")

    def _change_model(self, model: str) -> None:
        if model:
            self._session.start_anew(model)
        self._say(f"{'a new conversation with' if model else 'the model is'} {self._session.model}")

    def _start_anew(self, _: str) -> None:
        self._session.start_anew()
        self._say("a new conversation")

    def _help(self, _: str) -> None:
        for name, about in COMMANDS.items():
            self._console.print(Text.assemble((f"  {name:<9}", "cyan"), about))
        self._say(f"  {KEYS}")

    def _last(self) -> Exchange:
        exchanges = self._session.history()
        if not exchanges:
            raise InputError("there is no answer yet; ask something first")
        return exchanges[-1]

    def _say(self, text: str) -> None:
        self._console.print(Text(one_line(text, 2000), style="dim"))


def picture_path(line: str) -> Path | None:
    """The file that the whole line names, as typed, quoted, or dropped by a file manager; None when there is none."""
    text = line.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    for candidate in (text, unquote(text.removeprefix("file://")), text.replace("\\ ", " ")):
        path = existing_file(candidate)
        if path is not None and path.suffix:
            return path
    return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
