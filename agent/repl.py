"""A conversation about pictures in the terminal.

A line is a question, a command that starts with "/", or the path of a picture, which is added to the conversation.
Ctrl-C ends the run that goes on and keeps the conversation; Ctrl-D leaves. Nothing is kept here: after any end of the
process `foveate -c` goes on where the conversation was, and /list leads back to the earlier ones.
"""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

from PIL import Image
from rich.console import Console
from rich.text import Text

from foveate.agent.archive import ID_LENGTH, Archive, Kept, find
from foveate.agent.console import LiveSteps, answer_block, closing_line, ending, step_block, total_usage, usage_line
from foveate.agent.conversations import Conversation, Conversations
from foveate.agent.export import write_conversation
from foveate.agent.interrupt import cancel_on_interrupt
from foveate.agent.line_editor import ReadLine
from foveate.agent.plain import one_line
from foveate.agent.records import Event, RunDone, Step
from foveate.agent.session import MakeAgent, Session
from foveate.agent.state import Exchange
from foveate.agent.trace import write_trace
from foveate.agent.typed import picture_path, picture_paths, refuse_path, unquoted
from foveate.errors import FoveateError, InputError
from foveate.paths import expanded

COMMANDS = {
    "/image": "PATH: add a picture (typing just its path does the same)",
    "/drop": "leave out the pictures that wait for the next question",
    "/images": "the pictures and crops of this conversation",
    "/steps": "the steps of the last answer once more",
    "/trace": "[DIR]: write the last answer's trace as a web page",
    "/save": "FILE: write the conversation (.md or .json); -f FILE replaces a file that is there",
    "/usage": "what this conversation has used",
    "/model": "[PATH|nano]: show the model, or start anew with another",
    "/new": "a new conversation",
    "/list": "[all]: the conversations that are kept, the newest first",
    "/resume": "[N|ID]: go on with a question that was cut off, or with another conversation",
    "/delete": "N|ID: delete a conversation and the pictures that are in no other",
    "/help": "this list",
    "/quit": "leave",
}
KEYS = "Enter sends, Alt-Enter starts a new line, Tab completes, Ctrl-C stops a run, Ctrl-D leaves."
SHOWN_ON_RESUME = 3
LISTED = 20


class Repl:
    """Reads lines until the user leaves and shows what the agent does; a context manager that closes its session."""

    def __init__(
        self,
        conversation: Conversation,
        *,
        conversations: Conversations,
        make_agent: MakeAgent,
        console: Console,
        is_typed: bool = True,
    ) -> None:
        """`is_typed`: whether a person types the lines; where they come from a pipe, Ctrl-C is for all of them."""
        self._is_typed = is_typed
        self._conversations = conversations
        self._archive = Archive(conversations)
        self._make_agent = make_agent
        self._console = console
        self._session = self._opened(conversation)
        self._listed: tuple[Kept, ...] | None = None
        self._saved: set[Path] = set()
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._add_picture,
            "/drop": self._drop_pictures,
            "/images": self._list_images,
            "/steps": self._show_steps,
            "/trace": self._write_trace,
            "/save": self._save,
            "/usage": self._show_usage,
            "/model": self._change_model,
            "/new": self._start_anew,
            "/list": self._list,
            "/resume": self._go_on,
            "/delete": self._delete,
            "/help": self._help,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._session.close()

    def run(self, read: ReadLine) -> None:
        """Greet, then read and obey until the user leaves."""
        self._greet()
        while True:
            try:
                line = read().strip()
            except KeyboardInterrupt:
                if not self._is_typed:
                    raise
                self._say("Ctrl-D leaves")
                continue
            except EOFError:
                return
            except OSError as error:  # such as a full disk while the line is kept in the history
                self._say(f"the line could not be read: {error}")
                return
            if line and not self._obey(line):
                return

    def toolbar(self) -> str:
        """One line about the conversation."""
        waiting = len(self._session.waiting)
        added = f" · {_count(waiting, 'picture')} added" if waiting else ""
        return f" {Path(self._session.model).name}{added} · /help"

    def add_pictures(self, paths: Sequence[Path]) -> list[Image.Image]:
        """Add pictures to the next question; ImageError, and none is added, when one is none."""
        return self._session.add_pictures(paths)

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
            self._console.print(step_block(end, ascii_only=self._console.options.ascii_only))
        if unfinished is not None:
            self._say(f"cut off: {one_line(unfinished)} (/resume goes on with it)")
        for path in self._session.waiting:
            self._say(f"added {path}")

    def _obey(self, line: str) -> bool:
        """Do what the line says, whether to stay; whatever goes wrong is one line, and the conversation goes on."""
        if line.split()[:1] in (["/quit"], ["/exit"]):
            return False
        try:
            first, _, after = line.partition("\n")
            name, _, rest = first.strip().partition(" ")
            if picture_path(line) is not None:
                self._add_picture(line)
            elif name in self._commands:
                self._commands[name](rest.strip())
                return not after.strip() or self._obey(after.strip())
            elif after.strip() and picture_path(first) is not None:  # both were pasted
                self._add_picture(first)
                return self._obey(after.strip())
            elif paths := picture_paths(line):
                for one, picture in zip(paths, self.add_pictures(paths), strict=True):
                    self._say(f"added {one.name}, {picture.width} x {picture.height} px")
            else:
                refuse_path(line)
                self._show(self._session.ask(line))
        except KeyboardInterrupt:
            if not self._is_typed:
                raise
            self._say("stopped")
        except (FoveateError, OSError) as error:
            self._complain(str(error))
        except Exception as error:  # noqa: BLE001 - a bug costs the answer, not the conversation
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._complain(f"unexpected {type(error).__name__}: {error} ({place.filename}:{place.lineno})")
        return True

    def _show(self, events: Iterator[Event]) -> None:
        """Show a run; the first Ctrl-C asks it to end, the second ends it."""
        with cancel_on_interrupt(self._session.cancel), LiveSteps(self._console, answer=True) as steps:
            for event in events:
                steps.show(event)
                if isinstance(event, RunDone):
                    self._console.print(closing_line(event.answer))
                    if event.answer.status == "cancelled" and not self._is_typed:
                        raise KeyboardInterrupt
        if self._session.waiting:
            self._say(f"{_names(self._session.waiting)} still waits for a question; /drop leaves it out")
        self._console.print()

    def _add_picture(self, text: str) -> None:
        if not text:
            raise InputError("got no path, wanted /image PATH")
        path = picture_path(text) or expanded(unquoted(text))
        (width_px, height_px) = self.add_pictures([path])[0].size
        self._say(f"added {path.name}, {width_px} x {height_px} px")

    def _drop_pictures(self, _: str) -> None:
        dropped = self._session.drop_pictures()
        self._say(f"left out {_names(dropped)}" if dropped else "no picture waits")

    def _list_images(self, _: str) -> None:
        exchanges = self._session.history()
        for number, record in enumerate(exchanges[-1].answer.images if exchanges else ()):
            x0, y0, x1, y1 = record.box_px
            kind = f"crop at {x0:.0f}, {y0:.0f}, {x1:.0f}, {y1:.0f}" if record.is_crop else "picture"
            self._say(f"image {number}: {kind}, {record.width_px} x {record.height_px} px")
        for path in self._session.waiting:
            self._say(f"added: {path}")

    def _show_steps(self, _: str) -> None:
        self._console.print(answer_block(self._last().answer, ascii_only=self._console.options.ascii_only))

    def _write_trace(self, folder: str) -> None:
        last = self._last()
        target = expanded(unquoted(folder)) if folder else Path("foveate-trace")
        self._say(f"wrote {write_trace(last.answer, last.question, self._session.image, target).absolute()}")

    def _save(self, text: str) -> None:
        """Write the conversation; a file that this process wrote is brought up to date without being asked."""
        file = unquoted(text.removeprefix("-f "))
        if not file:
            raise InputError("got no file, wanted /save FILE (.md or .json)")
        path = expanded(file).absolute()
        forced = text.startswith("-f ")
        self._last()
        write_conversation(self._session.history(), path, replace=forced or path in self._saved)
        self._saved.add(path)
        self._say(f"wrote {path}")

    def _show_usage(self, _: str) -> None:
        exchanges = self._session.history()
        total = total_usage(exchange.answer.usage for exchange in exchanges)
        self._say(f"{_count(len(exchanges), 'question')} · {usage_line(total)}")

    def _change_model(self, model: str) -> None:
        """Show the model, or start anew with another one; pictures that wait go along."""
        model = unquoted(model)
        if not model:
            self._say(f"the model is {self._session.model}")
            return
        waiting = self._session.waiting
        before = self._conversations.get(self._session.thread, self._session.model)
        conversation = replace(self._conversations.start(model), pending=waiting)
        self._enter(conversation)
        if waiting:
            self._conversations.save(replace(before, pending=()))
            self._conversations.save(conversation)
        self._say(f"a new conversation with {self._session.model}{f' and {_names(waiting)}' if waiting else ''}")

    def _start_anew(self, _: str) -> None:
        self._enter(self._conversations.start(self._session.model))
        self._say("a new conversation")

    def _list(self, text: str) -> None:
        """Show the conversations; the numbers stay those of this list until the next one."""
        self._listed = self._archive.kept()
        if not self._listed:
            self._say("no conversation is kept yet")
        shown = self._listed if text == "all" else self._listed[:LISTED]
        for number, kept in enumerate(shown, start=1):
            here = " (this one)" if kept.thread == self._session.thread else ""
            about = f"{kept.at:%Y-%m-%d %H:%M}  {_count(kept.num_questions, 'question'):<12}  "
            line = Text.assemble((f"{number:>3}  ", "cyan"), (f"{kept.thread[:ID_LENGTH]}  {about}", "dim"))
            nothing = "damaged" if kept.damaged else "nothing asked yet"
            self._console.print(line.append(f"{one_line(kept.question, 60) or nothing}{here}"))
        if len(shown) < len(self._listed):
            self._say(f"{_count(len(self._listed) - len(shown), 'earlier one')}: /list all")

    def _go_on(self, text: str) -> None:
        """Go on with the question that was cut off, or with another conversation."""
        if not text:
            self._show(self._session.resume())
            return
        kept = self._find(text)
        conversation = self._conversations.get(kept.thread, self._session.model)
        self._enter(conversation)
        self._session.make_last()
        self._greet()

    def _delete(self, text: str) -> None:
        if not text:
            raise InputError("got no conversation, wanted /delete N or /delete ID as /list shows them")
        kept = self._find(text)
        num_images = self._archive.delete(kept.thread)
        what = f'"{one_line(kept.question, 60)}"' if kept.question else kept.thread[:ID_LENGTH]
        self._say(f"deleted {what}: {_count(kept.num_questions, 'question')}, {_count(num_images, 'image')}")

    def _help(self, _: str) -> None:
        for name, about in COMMANDS.items():
            self._console.print(Text.assemble((f"  {name:<9}", "cyan"), about))
        self._say(f"  {KEYS}")

    def _opened(self, conversation: Conversation) -> Session:
        return Session(make_agent=self._make_agent, conversations=self._conversations, conversation=conversation)

    def _enter(self, conversation: Conversation) -> None:
        """Leave this conversation for another one, if that can be opened and read."""
        with ExitStack() as stack:
            session = stack.enter_context(self._opened(conversation))
            session.history()
            stack.pop_all()
        if set(self._session.waiting) - set(conversation.pending):
            self._say(f"{_names(self._session.waiting)} stays with the conversation before")
        before, self._session = self._session, session
        self._saved.clear()
        before.close()  # which may take seconds, and be interrupted

    def _find(self, text: str) -> Kept:
        """The conversation that a user names; InputError when it is this one."""
        kept = find(text, self._archive.kept(), self._listed)
        if kept.thread == self._session.thread:
            raise InputError(f"{text} is the conversation that goes on here; /new leaves it")
        return kept

    def _last(self) -> Exchange:
        exchanges = self._session.history()
        if not exchanges:
            raise InputError("there is no answer yet; ask something first")
        return exchanges[-1]

    def _say(self, text: str) -> None:
        self._console.print(Text(one_line(text, 2000), style="dim"))

    def _complain(self, text: str) -> None:
        self._console.print(Text(one_line(text, 2000), style="red"))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _names(paths: tuple[str, ...]) -> str:
    return ", ".join(Path(path).name for path in paths)
