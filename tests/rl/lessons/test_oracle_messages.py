"""The oracle's conversations are what the agent would have had: calls parse, crops are the called boxes."""

import random
import re

import pytest
from PIL import Image

from foveate.agent.images import box_to_pixels
from foveate.agent.parse import parse
from foveate.rl.lessons.oracle_messages import (
    MOST_READ,
    aim_exercises,
    count_conversations,
    flag_exercise,
    mark_exercises,
    page_conversation,
    pixel_box,
    relative_box,
    scene_conversation,
)
from foveate.rl.lessons.pages import PageWriter, corpus_words
from foveate.rl.tasks.scene import FAMILIES, Mark, draw_scene
from foveate.tools.zoom import zoom


def test_relative_boxes_hold_the_pixel_box() -> None:
    rng = random.Random(0)
    for _ in range(200):
        size = rng.randint(50, 2500), rng.randint(50, 2500)
        x0, y0 = rng.randint(0, size[0] - 20), rng.randint(0, size[1] - 20)
        box = (x0, y0, rng.randint(x0 + 10, size[0]), rng.randint(y0 + 10, size[1]))
        back = pixel_box(relative_box(box, size), size)
        assert back[0] <= box[0]
        assert back[1] <= box[1]
        assert back[2] >= box[2]
        assert back[3] >= box[3]


@pytest.mark.parametrize("family", FAMILIES)
def test_turns_parse_and_crops_are_numbered_in_order(family: str) -> None:
    scene = draw_scene(family, 3, "train")
    messages = scene_conversation(scene.image, scene.questions).messages
    images: list[Image.Image] = [scene.image]
    answers = []
    for message, following in zip(messages, [*messages[1:], None], strict=True):
        if message["role"] != "assistant":
            continue
        parsed = parse(message["content"])
        if parsed.answer is not None:
            answers.append(parsed.answer)
            continue
        call = parsed.calls[0]
        assert following is not None
        assert following["role"] == "tool"
        assert following["name"] == call.name
        if call.name == "zoom":
            source = images[call.arguments["image"]]
            crop = following["content"][1]["image"]
            box_px = box_to_pixels(call.arguments["box"], source.size, "relative_1000")
            assert crop.tobytes() == zoom(source, box_px).tobytes(), "as the agent's tool cuts it"
            assert following["content"][0]["text"] == f"image {len(images)}"
            images.append(crop)
    assert answers == [question.answer for question in scene.questions]


def test_page_exercises_name_what_is_on_the_page_and_nothing_twice() -> None:
    page = PageWriter("train", corpus_words()).page(random.Random(4))
    texts = [line.text for line in page.lines]
    for seed in range(20):
        messages = page_conversation(page, random.Random(seed), 12).messages
        assert 2 <= len(messages) <= 24
        seen: list[str] = []
        for question, turn in zip(messages[::2], messages[1::2], strict=True):
            parsed = parse(turn["content"])
            asked = question["content"][-1]["text"]
            if asked == "Read the page.":
                assert parsed.answer == " ".join(texts[:MOST_READ])
            elif asked.startswith("Where"):
                seen.append(asked.split('"', 1)[1].removesuffix('"?'))
                assert parsed.calls[0].name == "zoom"
            else:
                count, start = int(asked.split()[1]), texts.index(asked.split('"', 1)[1].removesuffix('".'))
                read = texts[start + 1 : start + 1 + count]
                assert parsed.answer == " ".join(read)
                seen += [texts[start], *read]
        assert all(texts.count(text) >= seen.count(text) >= 1 for text in seen)


def test_a_zoom_into_a_crop_shows_what_the_oracle_meant_although_the_crop_is_larger() -> None:
    scenes = [draw_scene("pointer", seed, "train") for seed in range(12)]
    asked = [(scene, question) for scene in scenes for question in scene.questions]
    inner = [(s, q) for s, q in asked if any(step.arguments["image"] for step in q.steps)]
    assert inner
    for scene, question in inner:
        x0, y0, x1, y1 = scene_conversation(scene.image, [question]).boxes[-1]
        left, top, right, bottom = question.evidence[-1]
        assert (x0 <= left, y0 <= top, right <= x1, bottom <= y1) == (True, True, True, True)


def test_marks_are_asked_for_once_and_only_when_their_name_is_unique() -> None:
    scene = draw_scene("pointer", 2, "train")
    exercises = mark_exercises(scene.marks, scene.image.size, random.Random(0), 50)
    names = [mark.name for mark in scene.marks]
    asked = [name for question, _ in exercises for name in re.findall(r"the ([^;?.]+)", question)]
    assert sorted(asked) == sorted(name for name in names if names.count(name) == 1)
    for question, said in exercises:
        boxes = [list(map(int, found)) for found in re.findall(r"(\d+),(\d+),(\d+),(\d+)", said)]
        wanted = [relative_box(dict(zip(names, (m.box for m in scene.marks), strict=True))[name], scene.image.size)
                  for name in re.findall(r"the ([^;?.]+)", question)]  # fmt: skip
        assert boxes == wanted
    messages = scene_conversation(scene.image, scene.questions[:1], exercises).messages
    assert len(messages[0]["content"]) == 2
    assert all(len(message["content"]) == 1 for message in messages[2 : 2 * len(exercises) : 2])


def test_flags_are_named_row_by_row_and_only_those_that_are_there_once() -> None:
    places = {"Peru": (90, 6), "Chad": (10, 0), "Fiji": (50, 60), "Oman": (10, 50), "Mali": (200, 2)}
    marks = [Mark(name=f"flag of {name}", box=(x, y, x + 30, y + 20)) for name, (x, y) in places.items()]
    marks += [Mark(name="flag of Mali", box=(300, 80, 330, 100)), Mark(name="red star", box=(130, 0, 150, 20))]
    assert flag_exercise(marks) == [
        ("Name the flags.", "<answer>flag of Chad; flag of Peru; flag of Oman; flag of Fiji</answer>")
    ]
    assert flag_exercise(marks[-1:]) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_that_is_aimed_at_ends_with_its_first_zoom(family: str) -> None:
    scene = draw_scene(family, 7, "train")
    whole = [scene_conversation(scene.image, [question]).messages[1]["content"] for question in scene.questions]
    exercises = aim_exercises(scene.questions, scene.image.size)
    assert exercises == [(question.text, turn) for question, turn in zip(scene.questions, whole, strict=True)]


def test_small_things_are_counted_in_each_crop_by_itself() -> None:
    scenes = (draw_scene("compare", seed, "train") for seed in range(30))
    scene = next(scene for scene in scenes if "I count" in scene.questions[0].steps[1].thought)
    whole = scene_conversation(scene.image, scene.questions)
    found = count_conversations(scene)
    assert {conversation.boxes[0] for conversation in found} == set(whole.boxes[1:])
    said = "".join(message["content"] for message in whole.messages if message["role"] == "assistant")
    for conversation in found:
        turn = parse(conversation.messages[1]["content"])
        assert turn.thought in said
        assert turn.thought == f"I count {'123456789'[: int(turn.answer)]}."
        assert conversation.images[0].size == (
            conversation.boxes[0][2] - conversation.boxes[0][0],
            conversation.boxes[0][3] - conversation.boxes[0][1],
        )
    assert count_conversations(draw_scene("label", 7, "train")) == []
