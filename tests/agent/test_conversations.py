"""The records of conversations: which is the last, what is told about one that cannot be read.

No name is a path or too long; records of before names were quoted, and damaged ones, are found and forgotten too.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from scripted import ScriptedReasoner, answer

from foveate.agent.agent import Agent
from foveate.agent.archive import Archive
from foveate.agent.conversations import HASHED, Conversation, Conversations
from foveate.agent.images import ImageStore
from foveate.errors import InputError


@pytest.fixture
def conversations(tmp_path: Path) -> Conversations:
    return Conversations(tmp_path / "data")


def test_the_record_that_was_written_last_is_the_last_conversation(conversations: Conversations) -> None:
    first, second = conversations.start("nano"), conversations.start("other")
    for conversation in (first, second, first, second):  # faster than the clock of a file system
        conversations.save(conversation)
        assert conversations.last() == conversation
    waiting = replace(first, pending=("a.png",), sending=True)
    conversations.save(waiting)
    assert conversations.last() == conversations.get(first.thread, "nano") == waiting
    conversations.forget(first.thread)
    assert conversations.last() == second
    assert conversations.get(first.thread, "nano") == first


def test_no_last_conversation_is_an_error(conversations: Conversations) -> None:
    with pytest.raises(InputError, match="no conversation to continue"):
        conversations.last()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"thread": 1}', '{"thread": "a", "model": "nano", "pending": 7}'])
def test_a_broken_record_is_an_error(conversations: Conversations, text: str) -> None:
    (conversations.records / "a.json").write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        conversations.last()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--data-dir"):
        Conversations(tmp_path / "file" / "data")


def test_a_broken_database_is_an_error(conversations: Conversations) -> None:
    conversations.database.write_bytes(b"no database " * 100)
    with pytest.raises(InputError, match="conversations"):
        Archive(conversations).kept()


@pytest.mark.parametrize("name", ["{folder}/precious", "../../precious"])
def test_a_thread_that_is_named_like_a_path_leads_nowhere(
    conversations: Conversations, tmp_path: Path, name: str
) -> None:
    thread, archive = name.format(folder=tmp_path), Archive(conversations)
    (tmp_path / "precious.json").write_text("mine")
    store = ImageStore(conversations.images)
    with Agent(ScriptedReasoner([answer("K7")]), tools=(), checkpoint=conversations.database, store=store) as agent:
        agent.ask("What?", thread=thread)
    assert [kept.thread for kept in archive.kept()] == [thread]
    conversations.save(conversations.get(thread, "nano"))
    assert [kept.thread for kept in archive.kept()] == [conversations.last().thread] == [thread]
    archive.delete(thread)
    assert archive.kept() == ()
    assert (tmp_path / "precious.json").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"data", "precious.json"}


def test_a_conversation_of_a_long_name_is_kept_like_others(conversations: Conversations) -> None:
    conversation, archive = Conversation(thread="ä" * 200, model="other"), Archive(conversations)
    conversations.save(conversation)
    assert conversations.get(conversation.thread, "nano") == conversations.last() == conversation
    assert conversations.threads() == {conversation.thread}
    assert [kept.thread for kept in archive.kept()] == [conversation.thread]
    archive.delete(conversation.thread)
    assert archive.kept() == ()
    assert list(conversations.records.iterdir()) == []


def test_a_damaged_record_of_a_long_name_goes_by_the_name_of_its_file(conversations: Conversations) -> None:
    conversations.save(Conversation(thread="ä" * 200, model="nano"))
    (damaged,) = conversations.records.iterdir()
    damaged.write_text("{")
    assert damaged.stem.startswith(HASHED)
    assert conversations.threads() == {damaged.stem}
    conversations.forget(damaged.stem)
    assert conversations.threads() == set()


def test_a_record_of_before_names_were_quoted_is_found_and_forgotten(conversations: Conversations) -> None:
    old = conversations.records / "user:42.json"
    old.write_text('{"thread": "user:42", "model": "other", "pending": ["a.png"]}')
    kept = Conversation(thread="user:42", model="other", pending=("a.png",))
    assert conversations.get("user:42", "nano") == kept
    conversations.forget("user:42")
    assert not old.exists()
