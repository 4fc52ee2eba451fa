"""A conversation over its folder: a picture that cannot be shown, or that has gone, holds up no question."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from scripted import ScriptedReasoner, answer

from foveate.agent.agent import Agent
from foveate.agent.budget import Budget
from foveate.agent.conversations import Conversations
from foveate.agent.images import ImageStore
from foveate.agent.records import RunDone
from foveate.agent.session import Session
from foveate.errors import ImageError, InputError


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    kept = Conversations(tmp_path / "kept")

    def make_agent(_: str) -> Agent:
        reasoner = ScriptedReasoner(lambda _: answer("K7"))
        return Agent(reasoner, tools=(), checkpoint=kept.database, store=ImageStore(kept.images))

    with Session(make_agent=make_agent, conversations=kept, conversation=kept.start("nano")) as session:
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
