"""All conversations of a folder: the list of them, and the end of one.

What was asked and when is read from the agent's own checkpoints (LangGraph keeps one for each input of its graph), so
the list cannot differ from what is there, and it also names conversations whose record is gone. One that is damaged
does not hide the others and can be deleted.
"""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver

from foveate.agent.checkpoint import close_checkpointer, intact, legible, open_checkpointer
from foveate.agent.conversations import Conversations
from foveate.errors import InputError

ID_LENGTH = 8
"""Letters of an id that are shown."""
_FEWEST_LETTERS = 4
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A conversation as a list shows it."""

    thread: str
    at: datetime
    """When the last question was asked; of one without questions, when its last picture was added."""
    question: str
    """The first question, empty when there is none."""
    num_questions: int
    damaged: bool = False
    """Whether it cannot be read."""


class Archive:
    """Lists and deletes the conversations of a folder."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    def kept(self) -> tuple[Kept, ...]:
        """Every conversation, the newest first; InputError when the database cannot be read."""
        with self._saver() as saver:
            kept = [self._kept(thread, saver) for thread in self._threads()]
        return tuple(sorted(kept, key=lambda one: one.at, reverse=True))

    def delete(self, thread: str) -> int:
        """Delete a conversation and the images that no other one names; returns how many images those were.

        InputError when the database cannot be written. Its file keeps its size: the room is used by what comes next.
        """
        with self._saver() as saver:
            named = _images_named(saver, thread) or set()
            saver.delete_thread(thread)
            for other in self._threads() - {thread}:
                still_named = _images_named(saver, other)
                named = set() if still_named is None else named - still_named
        self._conversations.forget(thread)
        paths = [path for sha256 in named for path in self._conversations.images.glob(f"{sha256}.*")]
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    def _threads(self) -> set[str]:
        """Of all conversations, whether or not one is damaged."""
        with closing(sqlite3.connect(self._conversations.database)) as connection:
            in_database = {thread for (thread,) in connection.execute("SELECT DISTINCT thread_id FROM checkpoints")}
        return in_database | self._conversations.threads()

    def _kept(self, thread: str, saver: BaseCheckpointSaver[str]) -> Kept:
        damaged = False
        try:
            with intact(thread):
                config: RunnableConfig = {"configurable": {"thread_id": thread}}
                inputs = [given.checkpoint for given in saver.list(config, filter={"source": "input"})]
                if inputs:  # the newest first
                    at = datetime.fromisoformat(inputs[0]["ts"]).astimezone()
                    question = str(inputs[-1]["channel_values"]["__start__"]["question"])
                    return Kept(thread=thread, at=at, question=question, num_questions=len(inputs))
        except InputError:
            damaged = True
        at = self._conversations.saved_at(thread)
        return Kept(thread=thread, at=at, question="", num_questions=0, damaged=damaged)

    @contextmanager
    def _saver(self) -> Iterator[BaseCheckpointSaver[str]]:
        saver = open_checkpointer(self._conversations.database)
        assert saver is not None
        try:
            with legible():
                yield saver
        finally:
            close_checkpointer(saver)


def find(text: str, kept: Sequence[Kept], listed: Sequence[Kept] | None = None) -> Kept:
    """The conversation that a user means: the beginning of an id, or a number in `listed` (`kept` when None).

    InputError when there is none, or more than one.
    """
    shown = kept if listed is None else listed
    by_number = text.isdecimal() and 1 <= int(text) <= len(shown)
    thread = shown[int(text) - 1].thread if by_number else text
    found = [one for one in kept if one.thread == thread] or [
        one for one in kept if len(thread) >= _FEWEST_LETTERS and one.thread.startswith(thread)
    ]
    if not found:
        wanted = f"the number or the first {_FEWEST_LETTERS} letters of the id of one that /list shows"
        raise InputError(f"there is no conversation {text!r}, wanted {wanted}")
    if len(found) > 1:
        raise InputError(f"{len(found)} conversations begin with {text}; give more letters of the id")
    return found[0]


def _images_named(saver: BaseCheckpointSaver[str], thread: str) -> set[str] | None:
    """Every sha256 anywhere in a conversation, rather one too many than one too few; None for a damaged one."""
    try:
        with intact(thread):
            checkpoints = saver.list({"configurable": {"thread_id": thread}})
            return {sha256 for held in checkpoints for sha256 in _hashes((held.checkpoint, held.pending_writes))}
    except InputError:
        return None


def _hashes(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if _SHA256.match(value):
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _hashes(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _hashes(item)
