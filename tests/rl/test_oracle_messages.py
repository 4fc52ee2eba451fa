"""The oracle's conversations are what the agent would have had: calls parse, crops are the called boxes."""

import random

import pytest
from PIL import Image

from foveate.agent.parse import parse
from foveate.rl.oracle_messages import page_messages, pixel_box, relative_box, scene_messages
from foveate.rl.pages import PageWriter, corpus_words
from foveate.rl.tasks.scene import FAMILIES, draw_scene


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
    messages = scene_messages(scene.image, scene.questions)
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
            assert crop.tobytes() == source.crop(pixel_box(call.arguments["box"], source.size)).tobytes()
            assert following["content"][0]["text"] == f"image {len(images)}"
            images.append(crop)
    assert answers == [question.answer for question in scene.questions]


def test_page_exercises_name_what_is_on_the_page() -> None:
    page = PageWriter("train", corpus_words()).page(random.Random(4))
    messages = page_messages(page, random.Random(0), 12)
    texts = {line.text for line in page.lines}
    assert len(messages) == 24
    for message in messages[1::2]:
        parsed = parse(message["content"])
        assert parsed.calls or parsed.answer in texts or set(parsed.answer.split()) <= set(" ".join(texts).split())
