"""Scenes and pages as conversations that a model can learn from, in the very format that the agent uses.

The question, each oracle turn and each observation go through foveate.agent.messages, crops are cut as the zoom tool
cuts them, and boxes are written in the thinker's dialect. Several questions about one picture become one conversation
with follow-up questions.
"""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from PIL import Image

from foveate.agent.images import box_to_pixels
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
from foveate.rl.lessons.pages import Page
from foveate.rl.tasks.compare import COUNTED_GLYPH, counting
from foveate.rl.tasks.scene import Box, Mark, OracleStep, Question, Scene, original_boxes
from foveate.tools.zoom import covered_pixels

BOX_STEP = 50
"""Oracle boxes are rounded outward to multiples of this, in thousandths of a side.

At first view that is two thirds of an image token: what a box needs to be right can be told from which tokens it
touches, and boxes a little too large cost less than digits that nobody can see.
"""

FLAG = "flag of "
"""How the names of flags begin."""
MOST_READ = 60
"""Texts of a page that are read in one go."""
MOST_FOUND = 16
"""Things of a picture that one question asks for."""
MOST_NEXT = 5
"""Texts that are read after a given one."""

WHERE_SHARE = 0.2
"""Of the exercises about one text of a page."""
WHOLE_PAGE_SHARE = 0.75

COUNT = "Count the small things."
"""Asked of a crop that is all there is to see."""

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
    """The whole pixels that the zoom tool cuts for a relative box."""
    return covered_pixels(size_px, box_to_pixels(list(box), size_px, "relative_1000"))


class Source(NamedTuple):
    """What an oracle's step cuts from: an image of the conversation, which is a little larger than the oracle meant."""

    image: int
    origin: tuple[float, float]
    """Where the crop that the oracle meant begins, in pixels of the picture."""


def shifted(box_px: Box, right: float, down: float) -> Box:
    """The box moved."""
    return box_px[0] + right, box_px[1] + down, box_px[2] + right, box_px[3] + down


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
        own = [Source(0, (0, 0))]
        for step in question.steps:
            self._step(step, own)
        self.messages.append(assistant_message(render_turn(question.final_thought, question.answer)))

    def _step(self, step: OracleStep, own: list["Source"]) -> None:
        """One turn and its observation; `own` holds what the question's crop numbers stand for."""
        arguments, crop = dict(step.arguments), None
        text = step.result
        if step.tool == "zoom":
            index, origin = own[arguments["image"]]
            source, (left, top) = self.images[index], self.boxes[index][:2]
            meant = shifted(arguments["box"], *origin)
            box = relative_box(shifted(meant, -left, -top), source.size)
            arguments = {"image": index, "box": box}
            inner = pixel_box(box, source.size)
            crop = source.crop(inner)
            own.append(Source(len(self.images), meant[:2]))
            self.images.append(crop)
            self.boxes.append(shifted(inner, left, top))
            text = image_label(own[-1].image)
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


def aim_exercises(questions: Sequence[Question], size_px: tuple[int, int]) -> list[Exercise]:
    """Questions with the first turn alone: where to look, at a fraction of the tokens of the whole way."""
    return [(question.text, _first_turn(question, size_px)) for question in questions]


def _first_turn(question: Question, size_px: tuple[int, int]) -> str:
    if not question.steps:
        return render_turn(question.final_thought, question.answer)
    first = question.steps[0]
    call = Call(name="zoom", arguments={"image": 0, "box": relative_box(first.arguments["box"], size_px)})
    return render_turn(first.thought, call)


def count_conversations(scene: Scene) -> list[Conversation]:
    """Each crop of a scene in which things are counted, as a picture of its own with nothing else to do."""
    counted: dict[Box, Conversation] = {}
    for question in scene.questions:
        for box, place in zip(original_boxes(question), question.evidence, strict=False):
            things = [g.box for g in scene.glyphs if g.character == COUNTED_GLYPH and holds(place, g.box)]
            view = pixel_box(relative_box(box, scene.image.size), scene.image.size)
            if things and place not in counted and all(holds(view, thing) for thing in things):
                counted[place] = Conversation(scene.image.crop(view))
                counted[place].boxes = [view]
                asked = question_message(COUNT, counted[place].unseen())
                counted[place].say(asked, render_turn(counting(len(things)), str(len(things))))
    return list(counted.values())


def holds(place: Box, box: Box) -> bool:
    """Whether the middle of a box lies in a place."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return place[0] <= x <= place[2] and place[1] <= y <= place[3]


def single_marks(marks: Sequence[Mark]) -> list[Mark]:
    """The marks whose name no other mark of the picture has."""
    times = Counter(mark.name for mark in marks)
    return [mark for mark in marks if times[mark.name] == 1]


def mark_exercises(marks: Sequence[Mark], size_px: tuple[int, int], rng: random.Random, count: int) -> list[Exercise]:
    """Questions where `count` named things are (or all, if there are fewer), each asked for once.

    Many are asked for in one question, whose answer lists boxes: half the tokens of a zoom for each.
    """
    single = single_marks(marks)
    chosen = [(mark.name, relative_box(mark.box, size_px)) for mark in rng.sample(single, min(count, len(single)))]
    exercises = []
    while chosen:
        some = chosen[: rng.choice((1, 1, MOST_FOUND))]
        chosen = chosen[len(some) :]
        if len(some) == 1:
            name, box = some[0]
            exercises.append((f"Where is the {name}?", render_call("zoom", {"image": 0, "box": box})))
        else:
            asked = "; ".join(f"the {name}" for name, _ in some)
            listed = "; ".join(f"the {name} {','.join(map(str, box))}" for name, box in some)
            exercises.append((f"Find {asked}.", f"<answer>{listed}</answer>"))
    return exercises


def flag_exercise(marks: Sequence[Mark]) -> list[Exercise]:
    """One question for the names of all flags, row by row; none without flags."""
    rows: list[list[Mark]] = []
    for mark in sorted((mark for mark in single_marks(marks) if mark.name.startswith(FLAG)), key=_top):
        if not rows or _top(mark) > (rows[-1][0].box[1] + rows[-1][0].box[3]) / 2:
            rows.append([])
        rows[-1].append(mark)
    names = [mark.name for row in rows for mark in sorted(row, key=lambda mark: mark.box[0])]
    return [("Name the flags.", f"<answer>{'; '.join(names)}</answer>")] if names else []


def _top(mark: Mark) -> float:
    return mark.box[1]


def page_conversation(page: Page, rng: random.Random, count: int) -> Conversation:
    """At most `count` reading exercises on one page: read it all, say where a text is or what follows it.

    No text comes twice, in a question or an answer, unless to be found: what was written before is copied, not read.
    """
    conversation = Conversation(page.image)
    unread = set(range(len(page.lines)))
    for number in range(count):
        if number == 0 and (len(page.lines) == 1 or rng.random() < WHOLE_PAGE_SHARE):
            asked, said = _whole_page(page)
            unread -= set(range(MOST_READ))
        elif not unread:
            break
        else:
            exercise = _line_exercise(page, unread, rng)
            if exercise is None:
                continue
            asked, said = exercise
        conversation.say(question_message(asked, conversation.unseen()), said)
    return conversation


def _whole_page(page: Page) -> Exercise:
    return "Read the page.", f"<answer>{' '.join(line.text for line in page.lines[:MOST_READ])}</answer>"


def _line_exercise(page: Page, unread: set[int], rng: random.Random) -> Exercise | None:
    """A question about one text of the page that was not read yet, and the turn that answers it.

    None when the text it came upon stands on the page twice.
    """
    index = rng.choice(sorted(unread))
    unread.remove(index)
    line = page.lines[index]
    if sum(other.text == line.text for other in page.lines) > 1:
        return None
    nexts = range(index + 1, index + 1 + rng.randint(1, MOST_NEXT))
    following = [page.lines[number].text for number in takewhile(unread.__contains__, nexts)]
    if rng.random() < WHERE_SHARE or not following:
        box = relative_box(line.box_px, page.image.size)
        return f'Where is "{line.text}"?', render_call("zoom", {"image": 0, "box": box})
    unread.difference_update(nexts)
    return f'Read {len(following)} after "{line.text}".', f"<answer>{' '.join(following)}</answer>"
