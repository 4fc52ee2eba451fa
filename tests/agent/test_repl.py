"""The REPL's commands and its conversation, with lines from a list and a scripted model.

Proved: pictures are added by command and by name and go with the next question; a follow-up uses what was seen; what a
command writes; an error is one line and the conversation goes on; another process finds the conversation, its waiting
pictures and its model.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from looking import looks_once
from PIL import Image
from rich.console import Console
from scripted import ScriptedReasoner

from foveate.agent.agent import Agent
from foveate.agent.conversations import Conversation, Conversations
from foveate.agent.images import ImageStore
from foveate.agent.repl import COMMANDS, Repl, picture_path
from foveate.agent.session import Session
from foveate.errors import InputError
from foveate.tools import zoom_tool


@pytest.fixture
def conversations(tmp_path: Path) -> Conversations:
    return Conversations(tmp_path / "data")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a street.png"
    Image.new("RGB", (800, 600), "#99aabb").save(path)
    return path


def talk(conversations: Conversations, *lines: str, conversation: Conversation | None = None) -> str:
    """What the screen shows when a new process reads these lines."""

    def make_agent(_: str) -> Agent:
        store = ImageStore(conversations.images)
        return Agent(ScriptedReasoner(looks_once), tools=[zoom_tool()], checkpoint=conversations.database, store=store)

    waiting: Iterator[str] = iter(lines)

    def read() -> str:
        for line in waiting:
            return line
        raise EOFError

    screen = io.StringIO()
    conversation = conversation or conversations.start("nano")
    with Session(make_agent=make_agent, conversations=conversations, conversation=conversation) as session:
        Repl(session, Console(file=screen, width=100)).run(read)
    return screen.getvalue()


def test_a_question_and_a_follow_up_that_uses_the_crop(conversations: Conversations, picture: Path) -> None:
    screen = talk(conversations, f"/image {picture}", "What does it say?", "And what was in the earlier crop?")
    assert "added a street.png, 800 x 600 px" in screen
    assert "The label is at the upper left." in screen
    assert "240 × 120 px at 80, 60" in screen
    assert "K7, one of 2 images" in screen


def test_the_name_of_a_picture_adds_it(conversations: Conversations, picture: Path) -> None:
    for line in (str(picture), f"'{picture}'", f'"{picture}" ', str(picture).replace(" ", "\\ "), picture.as_uri()):
        assert "added a street.png" in talk(conversations, line), line


@pytest.mark.parametrize(
    "line", ["What is this?", "x" * 5000 + ".png", "no\0thing.png", "/tmp", "etc.", "~50 cm or more?"]
)
def test_other_lines_are_no_picture(line: str) -> None:
    assert picture_path(line) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("What?", "there is no picture yet"),
        ("/image", "got no path"),
        ("/image missing.png", "missing.png"),
        ("/nonsense", "there is no command /nonsense"),
        ("/trace", "there is no answer yet"),
        ("/save", "got no file"),
        ("/save /no/such/folder/file.md", "No such file"),
        ("/resume", "unfinished"),
        ("/image ~nobody-here/a.png", "nobody-here"),
    ],
)
def test_an_error_is_one_line_and_the_conversation_goes_on(conversations: Conversations, line: str, said: str) -> None:
    screen = talk(conversations, line, "/usage")
    assert said in screen
    assert "Traceback" not in screen
    assert "0 questions" in screen


def test_every_command_is_in_the_help(conversations: Conversations) -> None:
    screen = talk(conversations, "/help")
    assert all(name in screen for name in COMMANDS)


def test_trace_and_save_write_files(conversations: Conversations, picture: Path, tmp_path: Path) -> None:
    talk(
        conversations,
        str(picture),
        "What does it say?",
        f"/trace {tmp_path / 'trace'}",
        f"/save {tmp_path / 'talk.md'}",
        f"/save {tmp_path / 'talk.json'}",
    )
    assert (tmp_path / "trace" / "trace.html").is_file()
    assert "    K7" in (tmp_path / "talk.md").read_text()
    assert json.loads((tmp_path / "talk.json").read_text())["exchanges"][0]["answer"] == "K7"


def test_another_process_goes_on_with_the_conversation(conversations: Conversations, picture: Path) -> None:
    talk(conversations, str(picture), "What does it say?", str(picture))
    screen = talk(conversations, "What was in the earlier crop?", conversation=conversations.last())
    assert "going on after 1 question" in screen
    assert "› What does it say?" in screen
    assert f"added {picture}" in screen.replace("\n", "")
    assert "K7, one of 3 images" in screen


def test_a_new_conversation_knows_nothing_of_the_old_one(conversations: Conversations, picture: Path) -> None:
    screen = talk(conversations, str(picture), "What does it say?", "/new", "/images", "What was earlier?")
    assert "there is no picture yet" in screen


def test_a_picture_that_is_gone_is_told_and_waits_no_longer_after_new(
    conversations: Conversations, picture: Path
) -> None:
    talk(conversations, str(picture))
    picture.unlink()
    screen = talk(conversations, "What does it say?", "/new", "/images", conversation=conversations.last())
    assert "a street.png" in screen
    assert "a new conversation" in screen


def test_usage_is_the_sum_of_all_questions(conversations: Conversations, picture: Path) -> None:
    screen = talk(conversations, str(picture), "What?", "What was earlier?", "/usage")
    assert "2 questions · 3 turns · 1 tool call" in screen


def test_no_last_conversation_is_an_error(conversations: Conversations) -> None:
    with pytest.raises(InputError, match="no conversation to continue"):
        conversations.last()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"thread": 1}', '{"thread": "a", "model": "nano", "pending": 7}'])
def test_a_broken_last_file_is_an_error(conversations: Conversations, text: str) -> None:
    (conversations.folder / "last.json").write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        conversations.last()
