"""The REPL's commands and its conversation, with lines from a list and a scripted model.

Proved: pictures are added by command and by name and go with the next question; a follow-up uses what was seen; what a
command writes, and that it takes no file away; an error is one line and the conversation goes on; another process finds
the conversation, its waiting pictures and its model; earlier conversations are listed, gone on with and deleted.
"""

import io
import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from looking import looks_once
from PIL import Image
from rich.console import Console
from scripted import ScriptedReasoner

from foveate.agent.agent import Agent
from foveate.agent.conversations import Conversation, Conversations
from foveate.agent.images import ImageStore
from foveate.agent.records import Answer, RunDone, Usage
from foveate.agent.repl import COMMANDS, Repl
from foveate.agent.session import Session
from foveate.errors import ModelError
from foveate.models.reasoner import Message
from foveate.pictures import open_picture
from foveate.tools import zoom_tool


@pytest.fixture
def conversations(tmp_path: Path) -> Conversations:
    return Conversations(tmp_path / "data")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a street.png"
    Image.new("RGB", (800, 600), "#99aabb").save(path)
    return path


def talk(
    conversations: Conversations,
    *lines: str,
    conversation: Conversation | None = None,
    script: Callable[[Sequence[Message]], str] = looks_once,
    is_typed: bool = True,
) -> str:
    """What the screen shows when a new process reads these lines."""

    def make_agent(_: str) -> Agent:
        store = ImageStore(conversations.images)
        return Agent(ScriptedReasoner(script), tools=[zoom_tool()], checkpoint=conversations.database, store=store)

    waiting: Iterator[str] = iter(lines)

    def read() -> str:
        for line in waiting:
            return line
        raise EOFError

    screen = io.StringIO()
    console = Console(file=screen, width=100)
    conversation = conversation or conversations.start("nano")
    with Repl(
        conversation, conversations=conversations, make_agent=make_agent, console=console, is_typed=is_typed
    ) as repl:
        repl.run(read)
    return screen.getvalue()


def numbered(screen: str) -> list[str]:
    """The lines of a list of conversations."""
    return re.findall(r"^ +\d+  \w{8}  .*?(?=\s*$)", screen, re.MULTILINE)


def test_a_question_and_a_follow_up_that_uses_the_crop(conversations: Conversations, picture: Path) -> None:
    screen = talk(conversations, f"/image {picture}", "What does it say?", "And what was in the earlier crop?")
    assert "added a street.png, 800 x 600 px" in screen
    assert "The label is at the upper left." in screen
    assert "240 × 120 px at 80, 60" in screen
    assert "K7, one of 2 images" in screen


def test_the_name_of_a_picture_adds_it(conversations: Conversations, picture: Path) -> None:
    for line in (str(picture), f"'{picture}'", f'"{picture}" ', str(picture).replace(" ", "\\ "), picture.as_uri()):
        assert "added a street.png" in talk(conversations, line), line


def test_several_pictures_may_be_dropped_at_once(conversations: Conversations, picture: Path) -> None:
    other = picture.with_name("b street.png")
    other.write_bytes(picture.read_bytes())
    screen = talk(conversations, f"'{picture}' '{other}'", "/images")
    assert "added a street.png, 800 x 600 px" in screen
    assert "added b street.png, 800 x 600 px" in screen
    quoted = str(picture).replace(" ", "\\ ")
    assert "send" not in talk(conversations, f"{quoted} {quoted}")


def test_a_path_and_a_question_may_be_pasted_at_once(conversations: Conversations, picture: Path) -> None:
    screen = talk(conversations, f"{picture}\nWhat does it say?")
    assert "added a street.png, 800 x 600 px" in screen
    assert "K7" in screen


def test_a_command_may_have_lines_after_it(conversations: Conversations, picture: Path) -> None:
    screen = talk(conversations, f"/image {picture}\nWhat does it say?", "/new\nWhat does it say?")
    assert screen.index("K7") < screen.index("a new conversation") < screen.index("there is no picture yet")


@pytest.mark.parametrize("quoted", ["'{}'", '"{}"'])
def test_a_quoted_path_before_a_question_is_not_asked_about(
    conversations: Conversations, picture: Path, quoted: str
) -> None:
    screen = talk(conversations, str(picture), f"{quoted.format(picture)} What's that?", "/usage")
    assert "a street.png on a line of its own" in " ".join(screen.split())
    assert "0 questions" in screen


def test_where_nobody_types_an_interrupt_ends_it_all(conversations: Conversations, picture: Path) -> None:
    def interrupted(messages: Sequence[Message]) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talk(conversations, str(picture), "What?", "/list", script=interrupted, is_typed=False)
    assert "0 questions" in talk(conversations, str(picture), "What?", "/usage", script=interrupted)


def test_where_nobody_types_a_run_that_was_interrupted_is_the_last(
    conversations: Conversations, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Answer(text="", status="cancelled", reason="", steps=(), usage=Usage(), images=())
    asked: list[str] = []
    monkeypatch.setattr(Session, "ask", lambda _, line: asked.append(line) or iter([RunDone(answer=ended)]))
    with pytest.raises(KeyboardInterrupt):
        talk(conversations, "One?", "Two?", is_typed=False)
    assert asked == ["One?"]
    talk(conversations, "Three?", "Four?")
    assert asked == ["One?", "Three?", "Four?"]


@pytest.mark.parametrize("line", ["/quit", "/quit now", "/exit", "/list\n/quit"])
def test_quit_leaves(conversations: Conversations, line: str) -> None:
    assert "nonsense" not in talk(conversations, line, "/nonsense")


def test_a_question_may_begin_with_a_slash(conversations: Conversations, picture: Path) -> None:
    screen = talk(conversations, str(picture), "/dev/sda1 is drawn in red: how full is it?")
    assert "there is no command" not in screen
    assert "K7" in screen


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("What?", "there is no picture yet"),
        ("/image", "got no path"),
        ("/image missing.png", "missing.png"),
        ("/nonsense", "there is no command or file /nonsense; /help"),
        ("/no/such/photo.png", "there is no file /no/such/photo.png"),
        ("photo2.JPG", "there is no file photo2.JPG"),
        ("/trace", "there is no answer yet"),
        ("/save", "got no file"),
        ("/save talk.md", "there is no answer yet"),
        ("/resume", "unfinished"),
        ("/resume 1", "there is no conversation '1'"),
        ("/delete", "got no conversation"),
        ("/delete 7", "there is no conversation '7'"),
        ("/list", "no conversation is kept yet"),
        ("/image ~nobody-here/a.png", "nobody-here"),
    ],
)
def test_an_error_is_one_line_and_the_conversation_goes_on(conversations: Conversations, line: str, said: str) -> None:
    screen = talk(conversations, line, "/usage")
    assert said in screen
    assert "Traceback" not in screen
    assert "0 questions" in screen


def test_every_command_is_known(conversations: Conversations) -> None:
    for name in COMMANDS.keys() - {"/quit"}:
        assert "there is no command" not in talk(conversations, name), name


def test_steps_and_images_of_the_last_answer_are_shown(conversations: Conversations, picture: Path) -> None:
    before, _, after = talk(conversations, f"/image {picture}", "What does it say?", "/images", "/steps").partition(
        "image 0: picture, 800 x 600 px"
    )
    assert "image 1: crop at 80, 60, 320, 180, 240 x 120 px" in " ".join(after.split())
    assert before.count("240 × 120 px at 80, 60") == after.count("240 × 120 px at 80, 60") == 1


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


def test_a_picture_that_is_gone_is_told_and_left_out(
    conversations: Conversations, picture: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (90, 70)).save(other)
    talk(conversations, str(picture), str(other))
    picture.unlink()
    screen = talk(conversations, "What does it say?", "What does it say?", conversation=conversations.last())
    assert "it is left out now: ask again" in screen
    assert "1 tool call" in screen


def test_usage_is_the_sum_of_all_questions(conversations: Conversations, picture: Path) -> None:
    screen = talk(conversations, str(picture), "What?", "What was earlier?", "/usage")
    assert "2 questions · 3 turns · 1 tool call" in screen


def test_save_takes_no_file_away(conversations: Conversations, picture: Path, tmp_path: Path) -> None:
    notes, talk_md = tmp_path / "notes.md", tmp_path / "talk.md"
    notes.write_text("mine")
    lines = (
        str(picture),
        "What does it say?",
        f"/save {picture}",
        f"/save {notes}",
        f"/save {tmp_path / 'no' / 'a.md'}",
    )
    screen = talk(conversations, *lines, f"/save {talk_md}", "And earlier?", f"/save {talk_md}")
    assert "wanted a name that ends in .md or .json" in screen
    assert "is there already" in screen
    assert "No such file" in screen
    assert open_picture(picture).size == (800, 600)
    assert notes.read_text() == "mine"
    assert talk_md.read_text().count("## Question") == 2, "what this process wrote is brought up to date"
    talk(conversations, f"/save -f {notes}", conversation=conversations.last())
    assert notes.read_text().count("## Question") == 2


def test_a_bug_costs_the_answer_and_not_the_conversation(conversations: Conversations, picture: Path) -> None:
    def broken(messages: Sequence[Message]) -> str:
        if "break" in str(messages[-1]["content"]):
            raise RuntimeError("boom\nbang")
        return looks_once(messages)

    screen = talk(conversations, str(picture), "What?", "break", "And earlier?", "/usage", script=broken)
    assert "boom bang" in screen
    assert "Traceback" not in screen
    assert "K7, one of 2 images" in screen
    assert "going on after" in talk(conversations, conversation=conversations.last())


def test_pictures_that_wait_go_along_to_another_model_and_stay_behind_otherwise(
    conversations: Conversations, picture: Path
) -> None:
    screen = talk(conversations, str(picture), "/model other", "What does it say?", str(picture), "/new", "What?")
    assert "a new conversation with other and a street.png" in screen
    assert "K7" in screen
    assert "a street.png stays with the conversation before" in screen
    assert "there is no picture yet" in screen
    assert conversations.last().model == "other"
    assert conversations.last().pending == (str(picture),)


def test_a_picture_that_went_to_another_model_outlives_the_process(conversations: Conversations, picture: Path) -> None:
    talk(conversations, str(picture), "/model other")
    assert (conversations.last().model, conversations.last().pending) == ("other", (str(picture),))


def test_pictures_that_wait_can_be_left_out(conversations: Conversations, picture: Path) -> None:
    screen = talk(conversations, str(picture), "/drop", "/drop", "What?")
    assert "left out a street.png" in screen
    assert "no picture waits" in screen
    assert "there is no picture yet" in screen
    assert conversations.last().pending == ()


def test_a_picture_that_a_run_did_not_take_is_said_to_wait(conversations: Conversations, picture: Path) -> None:
    def fails(_: Sequence[Message]) -> str:
        raise ModelError("the endpoint says 503")

    screen = talk(conversations, str(picture), "What does it say?", script=fails)
    assert "a street.png still waits for a question; /drop leaves it out" in screen
    assert conversations.last().pending == (str(picture),)
    assert "still waits" not in talk(conversations, str(picture), "What does it say?")


def test_earlier_conversations_are_listed_and_gone_on_with(conversations: Conversations, picture: Path) -> None:
    talk(conversations, str(picture), "What does it say?", "And earlier?")
    screen = talk(conversations, str(picture), "A second one?", "/list", "/resume 2", "What was earlier?", "/list")
    first, second, *after = numbered(screen)
    assert first.endswith("1 question    A second one? (this one)")
    assert second.endswith("2 questions   What does it say?")
    assert "going on after 2 questions" in screen
    assert after[0].endswith("3 questions   What does it say? (this one)"), "the newest is first again"
    identity = after[1].split()[1]
    screen = talk(conversations, f"/resume {identity}", "/usage", conversation=conversations.last())
    assert "going on after 3 questions" in screen
    assert screen.rstrip().splitlines()[-1].startswith("1 question ")
    assert conversations.last().thread.startswith(identity), "and it is the last one now"


def test_pictures_of_a_killed_question_go_with_no_other(conversations: Conversations, picture: Path) -> None:
    """The process was killed when the question was in the checkpoint and the record had not been told."""

    class Killed(BaseException):
        """Stands for the end of a process."""

    def dies(_: Sequence[Message]) -> str:
        raise Killed

    with pytest.raises(Killed):
        talk(conversations, str(picture), "What does it say?", script=dies)
    killed = replace(conversations.last(), pending=(str(picture),), sending=True)
    conversations.save(killed)
    screen = talk(conversations, f"/resume {killed.thread}", "/resume")
    assert "K7" in screen
    assert (conversations.last().thread, conversations.last().pending) == (killed.thread, ())
    assert not conversations.last().sending


def test_a_conversation_is_deleted_with_the_images_that_only_it_names(
    conversations: Conversations, picture: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.png"
    Image.effect_noise((90, 70), 50).convert("RGB").save(other)
    talk(conversations, str(picture), "Only the first?")
    shared = set(conversations.images.iterdir())
    talk(conversations, str(picture), str(other), "Both?")
    screen = talk(conversations, "/list", "/delete 1", "/delete 1", "/list", "/resume 2", "What was earlier?")
    assert 'deleted "Both?": 1 question, 1 image' in screen
    assert "there is no conversation '1'" in screen, "a number means what the list showed"
    assert [line.split("  ")[-1] for line in numbered(screen)[2:]] == ["Only the first?"]
    assert set(conversations.images.iterdir()) == shared
    last = talk(conversations, "/delete 1", "/new", "/delete 1", conversation=conversations.last())
    assert "goes on here" in last
    assert 'deleted "Only the first?": 1 question, 2 images' in last
    assert list(conversations.images.iterdir()) == []
    assert list(conversations.records.iterdir()) == []


def test_a_damaged_conversation_is_refused_and_deleted_and_no_other_suffers(
    conversations: Conversations, picture: Path
) -> None:
    talk(conversations, str(picture), "Damaged?")
    with closing(sqlite3.connect(conversations.database)) as connection, connection:
        connection.execute("UPDATE checkpoints SET checkpoint = X'00'")
    screen = talk(conversations, str(picture), "Sound?", "/list", "/resume 2", "/usage", "/delete 2", "/list")
    assert "damaged" in numbered(screen)[1]
    assert "is damaged or of another version" in screen
    assert "1 question · 2 turns" in screen, "the conversation goes on"
    assert len(numbered(screen)) == 3
    assert len(list(conversations.images.iterdir())) == 2, "the images of the sound one"
