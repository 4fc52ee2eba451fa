"""Where conversations live on disk, and which was the last.

    FOLDER/conversations.sqlite   the agent's checkpoints (its own business)
    FOLDER/images/                pixels by sha256
    FOLDER/history                what was typed
    FOLDER/last.json              the last conversation: its id, its model, and pictures not yet asked about

Only last.json is written here, whole or not at all, so that a killed process leaves the old one or the new one.
"""

import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from foveate.errors import InputError
from foveate.models.reasoner import name_parts
from foveate.paths import expanded

SCHEMA_VERSION = 1


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
    return f"{prefix}{folder.absolute()}{suffix}" if name != "nano" and folder.is_dir() else model


class Conversations:
    """The folder that holds them; made when missing. Raises InputError when it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.images.mkdir(exist_ok=True)
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

    def start(self, model: str) -> Conversation:
        """A new conversation; it becomes the last one when it is saved."""
        return Conversation(thread=uuid.uuid4().hex, model=lasting_name(model))

    def save(self, conversation: Conversation) -> None:
        """Make it the last conversation."""
        part = self.folder / f".last.{os.getpid()}"
        part.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **asdict(conversation)}), encoding="utf-8")
        part.replace(self.folder / "last.json")

    def last(self) -> Conversation:
        """The last conversation; InputError when there is none or its file cannot be read."""
        path = self.folder / "last.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            pending = tuple(str(path) for path in record["pending"])
            thread, model, sending = str(record["thread"]), str(record["model"]), bool(record.get("sending"))
            return Conversation(thread=thread, model=lasting_name(model), pending=pending, sending=sending)
        except FileNotFoundError:
            raise InputError(
                f"there is no conversation to continue in {self.folder}; start one with: foveate"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}); delete it and start anew with: foveate") from error
