"""Where conversations live on disk, and which was the last.

    FOLDER/conversations.sqlite   the agent's checkpoints (its own business; `foveate.agent.archive` lists and deletes)
    FOLDER/images/                pixels by sha256
    FOLDER/history                what was typed
    FOLDER/records/THREAD.json    a conversation's model, and pictures not yet asked about

Only the records are written here, each whole or not at all, so that a killed process leaves the old one or the new one.
The record that was written last is that of the last conversation.
"""

import hashlib
import json
import os
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, unquote

from foveate.agent.replacing import replaced
from foveate.errors import InputError
from foveate.models.reasoner import name_parts
from foveate.paths import expanded, is_file, is_folder

SCHEMA_VERSION = 1
LONGEST, HASHED = 150, "thread="
"""Of the name of a record; a longer one is hashed. The sign is never in a name that was not."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation by its id."""

    thread: str
    model: str
    """Name or folder of the model that it is held with."""
    pending: tuple[str, ...] = ()
    """Paths of pictures that go with the next question."""
    sending: bool = False
    """Whether they are just going with one: a process that is killed now may have sent them, or not."""


def lasting_name(model: str) -> str:
    """The same model by a name that holds in any working folder."""
    prefix, name, suffix = name_parts(model)
    folder = expanded(name)
    return f"{prefix}{folder.absolute()}{suffix}" if name != "nano" and is_folder(folder) else model


class Conversations:
    """The folder that holds them; made when missing. Raises InputError when it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.images.mkdir(exist_ok=True)
            self.records.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"conversations cannot be kept in {folder} ({error.strerror}); use --data-dir") from error

    @property
    def database(self) -> Path:
        """The SQLite file of the agent's checkpoints."""
        return self.folder / "conversations.sqlite"

    @property
    def images(self) -> Path:
        """The folder of the image store."""
        return self.folder / "images"

    @property
    def history(self) -> Path:
        """The lines that were typed."""
        return self.folder / "history"

    @property
    def records(self) -> Path:
        """The folder of the records."""
        return self.folder / "records"

    def start(self, model: str) -> Conversation:
        """A new conversation; it becomes the last one when it is saved."""
        return Conversation(thread=uuid.uuid4().hex, model=lasting_name(model))

    def save(self, conversation: Conversation) -> None:
        """Make it the last conversation. Raises InputError when it cannot be written."""
        record = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(conversation)})
        try:
            with replaced(self._record(conversation.thread)) as part:
                part.write_text(record, encoding="utf-8")
                now_ns = time.time_ns()  # the clock of a file system may stand still for some milliseconds
                os.utime(part, ns=(now_ns, now_ns))
        except OSError as error:
            raise InputError(
                f"the conversation cannot be kept in {self.records} ({error.strerror}); use --data-dir"
            ) from error

    def get(self, thread: str, model: str) -> Conversation:
        """The conversation of a thread, with `model` where no record says which it is held with; InputError."""
        path = self._record(thread)
        return _read(path) if is_file(path) else Conversation(thread=thread, model=lasting_name(model))

    def last(self) -> Conversation:
        """The last conversation; InputError when there is none or its record cannot be read."""
        path = max(self.records.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, default=None)
        if path is None:
            raise InputError(f"there is no conversation to continue in {self.folder}; start one with: foveate")
        return _read(path)

    def saved_at(self, thread: str) -> datetime:
        """When its record was written; when anything was, if it has none."""
        path = self._record(thread)
        return datetime.fromtimestamp((path if is_file(path) else self.folder).stat().st_mtime).astimezone()

    def forget(self, thread: str) -> None:
        """Remove its records, if there are any."""
        for path in self._records_of(thread):
            with suppress(OSError):  # of a name that is too long there is none
                path.unlink(missing_ok=True)

    def threads(self) -> set[str]:
        """Of all records, whether or not one is damaged."""
        return {self._thread(path) for path in self.records.glob("*.json")}

    def _record(self, thread: str) -> Path:
        """Where it lies; of a new one where it will."""
        paths = self._records_of(thread)
        return next(filter(is_file, paths), paths[0])

    def _records_of(self, thread: str) -> list[Path]:
        """Its name is no path and not too long, whatever the thread's is: a program may have named it.

        Those of before 2026-11-29 have the thread's own name, or have spaces and length quoted; a damaged one of a long
        name is known by its file's.
        """
        name = quote(thread, safe=" ")
        if len(name) > LONGEST:
            name = HASHED + hashlib.sha256(thread.encode()).hexdigest()
        own = thread if unquote(thread) == Path(thread).name == thread else name
        return [self.records / f"{one}.json" for one in (name, own, quote(thread, safe=""))]

    def _thread(self, record: Path) -> str:
        if record.stem.startswith(HASHED):
            with suppress(InputError):
                return _read(record).thread
        return unquote(record.stem)


def _read(path: Path) -> Conversation:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        pending = tuple(str(path) for path in record["pending"])
        thread, model, sending = str(record["thread"]), str(record["model"]), bool(record.get("sending"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it and start anew with: foveate") from error
    return Conversation(thread=thread, model=lasting_name(model), pending=pending, sending=sending)
