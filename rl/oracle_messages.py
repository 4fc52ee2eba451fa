"""Scenes and pages as conversations that a model can learn from, in the very format that the agent uses.

The question, each oracle turn and each observation go through foveate.agent.messages, crops are cut as the zoom tool
cuts them, and boxes are written in the thinker's dialect. Several questions about one picture become one conversation
with follow-up questions.
"""

import random
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
from foveate.rl.tasks.scene import Box, OracleStep, Question

BOX_STEP = 10
"""Oracle boxes are rounded outward to multiples of this, in thousandths of a side: fewer digits to learn."""

MOST_READ = 12
"""Texts of a page that are read in one go."""


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


class _Conversation:
    """Messages so far and the images in the order in which the model has met them."""

    def __init__(self, picture: Image.Image) -> None:
        self.messages: list[Message] = []
        self.images = [picture]

    def ask(self, question: Question) -> None:
        """A question with the oracle's turns and their observations."""
        self.messages.append(question_message(question.text, self.images if not self.messages else ()))
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
            crop = source.crop(pixel_box(box, source.size))
            own.append(len(self.images))
            self.images.append(crop)
            text = image_label(own[-1])
        turn = render_turn(step.thought, Call(name=step.tool, arguments=arguments))
        self.messages.append(assistant_message(turn))
        self.messages.append(observation_message("", step.tool, text, crop))


def scene_messages(picture: Image.Image, questions: Sequence[Question]) -> list[Message]:
    """The oracle's conversation about a picture: each question with its turns, one after another."""
    conversation = _Conversation(picture)
    for question in questions:
        conversation.ask(question)
    return conversation.messages


def page_messages(page: Page, rng: random.Random, num_questions: int) -> list[Message]:
    """Reading exercises on one page: first read it, then read one place, read on after a word, or say where it is."""
    messages: list[Message] = []
    for number in range(num_questions):
        question, answer = _exercise(page, rng) if number else _whole_page(page)
        messages.append(question_message(question, () if messages else (page.image,)))
        messages.append(assistant_message(answer))
    return messages


def _whole_page(page: Page) -> tuple[str, str]:
    return "Read the page.", f"<answer>{' '.join(line.text for line in page.lines[:MOST_READ])}</answer>"


def _exercise(page: Page, rng: random.Random) -> tuple[str, str]:
    """A question about one text of the page and the turn that answers it."""
    index = rng.randrange(len(page.lines))
    line = page.lines[index]
    box = relative_box(line.box_px, page.image.size)
    unique = sum(other.text == line.text for other in page.lines) == 1
    kind = rng.random()
    if kind < 0.4 and unique and index + 1 < len(page.lines):
        return f'What comes after "{line.text}"?', f"<answer>{page.lines[index + 1].text}</answer>"
    if kind < 0.6 and unique:
        return f'Where is "{line.text}"?', render_call("zoom", {"image": 0, "box": box})
    return f"Read {','.join(map(str, box))}.", f"<answer>{line.text}</answer>"
