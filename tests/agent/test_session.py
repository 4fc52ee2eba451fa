"""A conversation over its folder: a picture that cannot be shown, or that has gone, holds up no question.

And one that was going with a question when the run was broken off goes with no other, if that question has it; one that
it has not taken waits on.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripted import ScriptedReasoner, answer, zoom

from foveate.agent.agent import Agent
from foveate.agent.budget import Budget
from foveate.agent.conversations import Conversation, Conversations
from foveate.agent.images import ImageStore
from foveate.agent.records import RunDone, TextDelta
from foveate.agent.session import Session
from foveate.errors import ImageError, InputError, ModelError
from foveate.models.reasoner import Message, Sample
from foveate.pictures import sha256_of_pixels
from foveate.tools.zoom import zoom_tool


def session_over(kept: Conversations, reasoner: ScriptedReasoner, conversation: Conversation | None = None) -> Session:
    """A session with this model, in a new conversation when none is given."""

    def make_agent(_: str) -> Agent:
        return Agent(reasoner, tools=[zoom_tool()], checkpoint=kept.database, store=ImageStore(kept.images))

    return Session(make_agent=make_agent, conversations=kept, conversation=conversation or kept.start("nano"))


def failing_at_first(*turns: str) -> ScriptedReasoner:
    """A model that raises when it is first asked; its n-th turn of a conversation is then `turns[n]`."""

    def turn(messages: Sequence[Message]) -> str:
        if len(reasoner.seen) == 1:
            raise RuntimeError("boom")
        return turns[sum(message["role"] == "assistant" for message in messages)]

    reasoner = ScriptedReasoner(turn)
    return reasoner


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with session_over(Conversations(tmp_path / "kept"), ScriptedReasoner(lambda _: answer("K7"))) as session:
        yield session


def test_a_picture_that_the_model_cannot_see_is_not_added(session: Session, tmp_path: Path) -> None:
    Image.new("RGB", (4000, 16)).save(tmp_path / "strip.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="picture is 4000 x 16 px"):
        session.add_pictures([tmp_path / "strip.png"])
    assert session.waiting == ()
    session.add_pictures([tmp_path / "a.png"])
    *_, last = session.ask("What?")
    assert isinstance(last, RunDone)
    assert (last.answer.status, len(last.answer.images)) == ("answered", 1)


def test_of_pictures_of_which_one_is_none_no_one_waits(session: Session, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="cannot be opened"):
        session.add_pictures([tmp_path / "a.png", tmp_path / "missing.png"])
    assert session.waiting == ()


def test_a_picture_that_has_gone_is_left_out(session: Session, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
        session.add_pictures([tmp_path / name])
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"a\.png.* cannot be opened .*it is left out now: ask again"):
        list(session.ask("What?"))
    assert session.waiting == (str(tmp_path / "b.png"),)
    *_, last = session.ask("What?")
    assert isinstance(last, RunDone)
    assert len(last.answer.images) == 1
    assert (session.waiting, session.unfinished()) == ((), None)


def test_pictures_that_a_run_does_not_take_wait_on(tmp_path: Path) -> None:
    """Else the next question would be answered without them."""
    kept, budgets = Conversations(tmp_path / "kept"), [Budget(image_tokens=10), Budget()]

    def make_agent(_: str) -> Agent:
        reasoner = ScriptedReasoner(lambda _: answer("K7"))
        return Agent(reasoner, tools=(), checkpoint=kept.database, store=ImageStore(kept.images), budget=budgets.pop(0))

    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    conversation = kept.start("nano")
    with Session(make_agent=make_agent, conversations=kept, conversation=conversation) as session:
        session.add_pictures([tmp_path / "a.png"])
        *_, last = session.ask("What?")
        assert isinstance(last, RunDone)
        assert last.answer.status == "out_of_budget"
        assert session.waiting == (str(tmp_path / "a.png"),)
    with Session(make_agent=make_agent, conversations=kept, conversation=kept.last()) as session:
        *_, last = session.ask("What?")
        assert isinstance(last, RunDone)
        assert (last.answer.status, len(last.answer.images)) == ("answered", 1)
        assert session.waiting == ()


def test_pictures_of_a_first_turn_that_broke_off_in_its_text_wait_on(tmp_path: Path) -> None:
    class BreakingOff(ScriptedReasoner):
        def sample(self, messages: Sequence[Message], **settings: Any) -> Sample:
            if self.seen:
                return super().sample(messages, **settings)
            self.seen.append(messages)
            settings["on_text"]("I look")
            raise ModelError("the endpoint says 503")

    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    with session_over(Conversations(tmp_path / "kept"), BreakingOff(lambda _: answer("K7"))) as session:
        session.add_pictures([tmp_path / "a.png"])
        first, last = session.ask("What?")
        assert isinstance(first, TextDelta)
        assert isinstance(last, RunDone)
        assert last.answer.status == "error"
        assert session.waiting == (str(tmp_path / "a.png"),)
        *_, last = session.ask("What?")
        assert isinstance(last, RunDone)
        assert (last.answer.status, len(last.answer.images), session.waiting) == ("answered", 1, ())


def test_a_home_is_found(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    session.add_pictures([Path("~/a.png")])
    assert session.waiting == (str(tmp_path / "a.png"),)
    *_, last = session.ask("What?")
    assert isinstance(last, RunDone)


def test_there_must_be_a_picture(session: Session) -> None:
    with pytest.raises(InputError, match="there is no picture yet"):
        next(session.ask("What?"))


def test_pictures_that_are_dropped_wait_no_longer(session: Session, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    session.add_pictures([tmp_path / "a.png"])
    assert session.drop_pictures() == (str(tmp_path / "a.png"),)
    assert (session.waiting, session.drop_pictures()) == ((), ())
    with pytest.raises(InputError, match="there is no picture yet"):
        next(session.ask("What?"))


def test_a_picture_of_a_run_that_broke_goes_with_no_later_question(tmp_path: Path) -> None:
    kept, picture = Conversations(tmp_path / "kept"), Image.new("RGB", (640, 480))
    picture.save(tmp_path / "a.png")
    with session_over(kept, failing_at_first(zoom(0, 0, 0, 500, 500), answer("K7"), answer("K8"))) as session:
        session.add_pictures([tmp_path / "a.png"])
        with pytest.raises(RuntimeError, match="boom"):
            list(session.ask("What?"))
        list(session.resume())
        assert session.waiting == ()
        *_, last = session.ask("And?")
    assert isinstance(last, RunDone)
    assert last.answer.text == "K8"
    shown = [image.is_crop for image in last.answer.images if image.original == sha256_of_pixels(picture)]
    assert shown == [False, True]


def test_a_picture_that_is_added_after_a_run_broke_goes_alone(tmp_path: Path) -> None:
    kept = Conversations(tmp_path / "kept")
    for name, width_px in (("a.png", 64), ("b.png", 32)):
        Image.new("RGB", (width_px, 48)).save(tmp_path / name)
    with session_over(kept, failing_at_first(answer("K7"))) as session:
        session.add_pictures([tmp_path / "a.png"])
        with pytest.raises(RuntimeError, match="boom"):
            list(session.ask("What?"))
        assert kept.last().sending
        session.add_pictures([tmp_path / "b.png"])
        assert (kept.last().pending, kept.last().sending) == ((str(tmp_path / "b.png"),), False)
        *_, last = session.ask("And?")
    assert isinstance(last, RunDone)
    assert [image.width_px for image in last.answer.images] == [64, 32]


def test_a_conversation_whose_picture_went_while_it_was_sent_is_asked_on(tmp_path: Path) -> None:
    kept, reasoner = Conversations(tmp_path / "kept"), ScriptedReasoner(lambda _: answer("K7"))
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    with session_over(kept, reasoner) as session:
        session.add_pictures([tmp_path / "a.png"])
        list(session.ask("What?"))
    kept.save(replace(kept.last(), pending=(str(tmp_path / "gone.png"),), sending=True))
    with session_over(kept, reasoner, kept.last()) as session:
        assert session.waiting == ()
        *_, last = session.ask("And?")
    assert isinstance(last, RunDone)
    assert last.answer.text == "K7"
