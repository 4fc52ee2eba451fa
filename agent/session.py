"""A conversation with an agent that outlives the process.

What was asked and seen lives in the agent's checkpoint. A session adds only what the agent does not know: which
conversation was the last, with which model, and the pictures that wait for the next question. A conversation stays with
one model, because its turns are kept as that model's own token ids.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from PIL import Image

from foveate.agent.agent import Agent
from foveate.agent.conversations import Conversation, Conversations
from foveate.agent.records import Answer, Event, RunDone, TextDelta
from foveate.agent.state import Exchange
from foveate.errors import ImageError, InputError
from foveate.paths import expanded
from foveate.pictures import sha256_of_pixels

MakeAgent = Callable[[str], Agent]
"""An agent for a model's name, with the checkpoint and the image store of the conversations."""


class Session:
    """The conversation that goes on; a context manager that closes its agent."""

    def __init__(self, *, make_agent: MakeAgent, conversations: Conversations, conversation: Conversation) -> None:
        self._make_agent = make_agent
        self._conversations = conversations
        self._conversation = conversation
        self._agent = make_agent(conversation.model)
        try:
            self._settle()
        except BaseException:
            self._agent.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Free what the agent holds; what was kept stays."""
        self._agent.close()

    @property
    def model(self) -> str:
        """The model's name or folder."""
        return self._conversation.model

    @property
    def thread(self) -> str:
        """The name of the conversation in the agent's checkpoint."""
        return self._conversation.thread

    @property
    def waiting(self) -> tuple[str, ...]:
        """Paths of the pictures that go with the next question."""
        return self._conversation.pending

    def make_last(self) -> None:
        """Make it the last conversation, which `foveate -c` goes on with."""
        self._keep(self._conversation)

    def history(self) -> tuple[Exchange, ...]:
        """Every finished question with its answer."""
        return self._agent.exchanges(self.thread)

    def unfinished(self) -> str | None:
        """A question that a killed process left behind."""
        return self._agent.unfinished(self.thread)

    def image(self, sha256: str) -> Image.Image:
        """An image that a step or an answer names."""
        return self._agent.image(sha256)

    def add_pictures(self, paths: Sequence[Path]) -> list[Image.Image]:
        """Add pictures to the next question and return them; ImageError, and none is, for one that cannot be shown."""
        self._settle()
        pictures = [self._shown(path) for path in paths]
        added = (str(expanded(path).absolute()) for path in paths)
        self._keep(replace(self._conversation, pending=(*self.waiting, *added)))
        return pictures

    def _shown(self, path: Path) -> Image.Image:
        """The picture in a file; an ImageError names it."""
        try:
            return self._agent.open_picture(path)
        except ImageError as error:
            raise ImageError(str(error) if str(path) in str(error) else f"{path}: {error}") from error

    def drop_pictures(self) -> tuple[str, ...]:
        """Let no picture wait for the next question; the paths of those that did."""
        self._settle()
        dropped = self.waiting
        self._keep(replace(self._conversation, pending=()))
        return dropped

    def ask(self, question: str) -> Iterator[Event]:
        """Ask with the waiting pictures; they are the agent's from here on. InputError when there is none at all.

        One that has gone meanwhile waits no longer: an ImageError says so, and the question may be asked again.
        """
        self._settle()
        if not self.waiting and not self.history() and self.unfinished() is None:
            raise InputError("there is no picture yet; type the path of one, then ask")
        try:
            events = self._agent.stream(question, self.waiting, thread=self.thread)
        except ImageError as error:
            self._keep(replace(self._conversation, pending=tuple(filter(self._opens, self.waiting))))
            raise ImageError(f"{error}; it is left out now: ask again") from error
        self._keep(replace(self._conversation, sending=bool(self.waiting)))
        yield from self._started(events)

    def resume(self) -> Iterator[Event]:
        """Go on with the unfinished question; InputError when there is none."""
        self._settle()
        return self._agent.resume(self.thread)

    def cancel(self) -> bool:
        """End the run that goes on, if there is one; safe in a signal handler."""
        return self._agent.cancel()

    def _settle(self) -> None:
        """Find out what became of pictures that were going with a question when the run was broken off."""
        if self._conversation.sending:
            history = self.history()
            taken = self.unfinished() is not None or (bool(history) and self._shows(history[-1].answer))
            self._keep(replace(self._conversation, pending=() if taken else self.waiting, sending=False))

    def _opens(self, path: str) -> bool:
        try:
            self._agent.open_picture(path)
        except ImageError:
            return False
        return True

    def _started(self, events: Iterator[Event]) -> Iterator[Event]:
        """The events; with the first whole step the pictures are in the conversation and wait no longer.

        But for a run that ends with it because its budget or the model does not take them: they wait on.
        """
        for event in events:  # text alone tells nothing: a model that fails in its first turn has not taken them
            if self.waiting and self._conversation.sending and not isinstance(event, TextDelta):
                taken = not isinstance(event, RunDone) or self._shows(event.answer)
                self._keep(replace(self._conversation, pending=() if taken else self.waiting, sending=False))
            yield event

    def _shows(self, answer: Answer) -> bool:
        """Whether the last images of the conversation are the waiting pictures; if one has gone they wait no longer."""
        try:
            waiting = [sha256_of_pixels(self._agent.open_picture(path)) for path in self.waiting]
        except ImageError:
            return True
        return [image.sha256 for image in answer.images[-len(waiting) :]] == waiting

    def _keep(self, conversation: Conversation) -> None:
        self._conversations.save(conversation)
        self._conversation = conversation
