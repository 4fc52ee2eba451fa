"""Scenes and pages as conversations that a model can learn from, in the very format that the agent uses.

The question, each oracle turn and each observation go through foveate.agent.messages, crops are cut as the zoom tool
cuts them, and boxes are written in the thinker's dialect. Several questions about one picture become one conversation
with follow-up questions.
"""

import random
from collections import Counter
from collections.abc import Sequence

from PIL import Image

from foveate.agent.messages import (
    Call,
    assistant_message,
    image_label,
    observation_message,
    question_message,
    render_call,
    render_turn,
)
from foveate.models.reasoner import Message
from foveate.rl.pages import Page
from foveate.rl.tasks.scene import Box, Mark, OracleStep, Question

BOX_STEP = 10
"""Oracle boxes are rounded outward to multiples of this, in thousandths of a side: fewer digits to learn."""

MOST_READ = 12
"""Texts of a page that are read in one go."""

WHOLE_PAGE_SHARE = 0.3

Exercise = tuple[str, str]
"""What is asked, and the turn that answers."""


def relative_box(box_px: Box, size_px: tuple[int, int]) -> list[int]:
    """The box in thousandths of each side, rounded outward to multiples of BOX_STEP."""
    width, height = size_px
    scaled = [1000 * value / side for value, side in zip(box_px, (width, height, width, height), strict=True)]
    low = [int(value // BOX_STEP) * BOX_STEP for value in scaled[:2]]
    high = [-int(-value // BOX_STEP) * BOX_STEP for value in scaled[2:]]
    return [max(0, low[0]), max(0, low[1]), min(1000, high[0]), min(1000, high[1])]


def pixel_box(box: Sequence[int], size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    """The whole pixels that a relative box names."""
    width, height = size_px
    x0, y0, x1, y1 = (
        round(value * side / 1000) for value, side in zip(box, (width, height, width, height), strict=True)
    )
    return x0, y0, x1, y1


class Conversation:
    """Messages so far and the images in the order in which the model has met them."""

    def __init__(self, picture: Image.Image | None) -> None:
        self.messages: list[Message] = []
        self.images = [] if picture is None else [picture]
        self.boxes: list[Box] = [] if picture is None else [(0, 0, *picture.size)]
        """The part of the picture, in its pixels, that each image shows."""

    def unseen(self) -> Sequence[Image.Image]:
        """The picture, for the first message only."""
        return () if self.messages else self.images

    def say(self, question: Message, answer: str) -> None:
        """A question that one turn answers."""
        self.messages += [question, assistant_message(answer)]

    def ask(self, question: Question) -> None:
        """A question with the oracle's turns and their observations."""
        self.messages.append(question_message(question.text, self.unseen()))
        own = [0]
        for step in question.steps:
            self._step(step, own)
        self.messages.append(assistant_message(render_turn(question.final_thought, question.answer)))

    def _step(self, step: OracleStep, own: list[int]) -> None:
        """One turn and its observation; `own` maps the question's crop numbers to those of the conversation."""
        arguments, crop = dict(step.arguments), None
        text = step.result
        if step.tool == "zoom":
            index = own[arguments["image"]]
            source = self.images[index]
            box = relative_box(arguments["box"], source.size)
            arguments = {"image": index, "box": box}
            inner = pixel_box(box, source.size)
            crop = source.crop(inner)
            own.append(len(self.images))
            self.images.append(crop)
            left, top = self.boxes[index][:2]
            self.boxes.append((left + inner[0], top + inner[1], left + inner[2], top + inner[3]))
            text = image_label(own[-1])
        turn = render_turn(step.thought, Call(name=step.tool, arguments=arguments))
        self.messages.append(assistant_message(turn))
        self.messages.append(observation_message("", step.tool, text, crop))


def scene_conversation(
    picture: Image.Image, questions: Sequence[Question], exercises: Sequence[Exercise] = ()
) -> Conversation:
    """Exercises about a picture, then the oracle's conversation about it: each question with its turns."""
    conversation = Conversation(picture)
    for asked, said in exercises:
        conversation.say(question_message(asked, conversation.unseen()), said)
    for question in questions:
        conversation.ask(question)
    return conversation


def mark_exercises(marks: Sequence[Mark], size_px: tuple[int, int], rng: random.Random, count: int) -> list[Exercise]:
    """At most `count` questions where a named thing is, or what is at a place; each thing once."""
    times = Counter(mark.name for mark in marks)
    single = [mark for mark in marks if times[mark.name] == 1]
    exercises = []
    for mark in rng.sample(single, min(count, len(single))):
        box = relative_box(mark.box, size_px)
        if rng.random() < 0.7:
            exercises.append((f"Where is the {mark.name}?", render_call("zoom", {"image": 0, "box": box})))
        else:
            exercises.append((f"What is at {_places(box)}?", f"<answer>{mark.name}</answer>"))
    return exercises


def page_conversation(page: Page, rng: random.Random, count: int) -> Conversation:
    """At most `count` reading exercises on one page: read it all, read a place, say where a text is or what follows it.

    No text comes twice, in a question or an answer, unless to be found: what was written before is copied, not read.
    """
    conversation = Conversation(page.image)
    unread = set(range(len(page.lines)))
    for number in range(count):
        if number == 0 and rng.random() < WHOLE_PAGE_SHARE:
            asked, said = _whole_page(page)
            unread -= set(range(MOST_READ))
        elif not unread:
            break
        else:
            asked, said = _line_exercise(page, unread, rng)
        conversation.say(question_message(asked, conversation.unseen()), said)
    return conversation


def _whole_page(page: Page) -> Exercise:
    return "Read the page.", f"<answer>{' '.join(line.text for line in page.lines[:MOST_READ])}</answer>"


def _line_exercise(page: Page, unread: set[int], rng: random.Random) -> Exercise:
    """A question about one text of the page that was not read yet, and the turn that answers it."""
    index = rng.choice(sorted(unread))
    unread.remove(index)
    line = page.lines[index]
    box = relative_box(line.box_px, page.image.size)
    unique = sum(other.text == line.text for other in page.lines) == 1
    kind = rng.random()
    if kind < 0.2 and unique and index + 1 in unread:
        unread.remove(index + 1)
        return f'What comes after "{line.text}"?', f"<answer>{page.lines[index + 1].text}</answer>"
    if kind < 0.55 and unique:
        return f'Where is "{line.text}"?', render_call("zoom", {"image": 0, "box": box})
    return f"Read {_places(box)}.", f"<answer>{line.text}</answer>"


def _places(box: Sequence[int]) -> str:
    return ",".join(map(str, box))
