"""A gaze says which image tokens a word of a turn comes from, and the loss rewards attention on them alone."""

import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from foveate.agent.messages import question_message
from foveate.models.config import NANO
from foveate.models.processor import Processor
from foveate.models.tokenizer import TextCodec
from foveate.rl.gaze import gaze_loss, gaze_targets, gazes, looks, mention_targets
from foveate.rl.oracle_messages import Conversation, page_conversation, scene_conversation
from foveate.rl.pages import PageWriter, corpus_words, text_runs
from foveate.rl.tasks.scene import FAMILIES, Drawing, Mark, Scene, draw_scene
from foveate.rl.views import page_drawing

TOKENIZER = Path(__file__).parents[2] / "models" / "nano" / "weights" / "tokenizer.json"


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor(NANO, TextCodec.from_file(TOKENIZER))


def pieces(conversation: Conversation, scene: Scene) -> list[tuple[int, str, int]]:
    """Turn, text and image of every gaze."""
    turns = [m["content"] for m in conversation.messages if m["role"] == "assistant"]
    found = [g for g in gazes(conversation, scene) if g.kind != "side"]
    return [(g.turn, turns[g.turn].encode()[g.start : g.end].decode(), g.image) for g in found]


def test_a_zoom_looks_at_its_box_and_the_reading_at_the_characters() -> None:
    scene = draw_scene("label", 3, "train")
    question = scene.questions[0]
    found = pieces(scene_conversation(scene.image, [question]), scene)
    assert found[0][1].startswith(f"<think>{question.steps[0].thought}")
    assert '"box":[' in found[0][1]
    assert found[0][2] == 0
    assert "".join(text for turn, text, image in found if (turn, image) == (1, 1)) == question.answer


@pytest.mark.parametrize("family", FAMILIES)
def test_every_zoom_looks_somewhere_and_tokens_only_look_back(family: str, processor: Processor) -> None:
    scene = draw_scene(family, 5, "train")
    conversation = scene_conversation(scene.image, scene.questions)
    transcript = processor(conversation.messages)
    pairs = gaze_targets(gazes(conversation, scene), conversation, transcript, processor.codec, 2)
    zooms = sum(step.tool == "zoom" for question in scene.questions for step in question.steps)
    assert len(pairs[0].unique()) > 10 * zooms
    assert (pairs[1] < pairs[0]).all()
    assert (transcript.token_ids[pairs[1]] == processor.codec.image_pad).all()
    assert transcript.by_policy_T[pairs[0] + 1].all()


def test_a_page_is_looked_at_where_its_lines_are() -> None:
    page = PageWriter("train", corpus_words()).page(random.Random(4))
    drawing = page_drawing(page)
    runs = {"".join(glyph.character for glyph in run) for run in text_runs(drawing.glyphs)}
    assert {line.text for line in page.lines} <= runs | {line.text for line in page.lines if " " in line.text}
    found = gazes(page_conversation(page, random.Random(1), 8), drawing)
    assert len(found) > 8


def test_the_loss_falls_to_zero_when_all_attention_lies_on_the_target() -> None:
    keys = torch.eye(8)[:, None]
    pairs = torch.tensor([[5, 5, 7], [1, 2, 4]])
    aimed = torch.zeros(8, 2, 8)
    aimed[5, :, 1:3], aimed[7, :, 4] = 200.0, 200.0
    assert gaze_loss(aimed, keys, pairs, [8]) < 1e-6
    blind = gaze_loss(torch.zeros(8, 2, 8), keys, pairs, [8])
    torch.testing.assert_close(blind, torch.tensor([6 / 2, 8 / 1]).log().mean())
    late = torch.zeros(8, 2, 8)
    late[5, :, 7] = 200.0
    torch.testing.assert_close(gaze_loss(late, keys, pairs, [8]), blind)


def test_conversations_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(12, 2, 4), torch.randn(12, 1, 4)
    apart = [gaze_loss(q[s : s + 6], k[s : s + 6], torch.tensor([[5], [2]]), [6]) for s in (0, 6)]
    packed = gaze_loss(q, k, torch.tensor([[5, 11], [2, 8]]), [6, 6])
    torch.testing.assert_close(packed, torch.stack(apart).mean())


def test_whoever_names_a_thing_looks_at_it(processor: Processor) -> None:
    scene = draw_scene("label", 3, "train")
    conversation = scene_conversation(
        scene.image, scene.questions[:1], [("Find the sun; the key.", "<answer></answer>")]
    )
    transcript = processor(conversation.messages)
    mark = scene.marks[0]
    there = Scene(**{**vars(scene), "marks": (Mark(name="key", box=mark.box),)})
    pairs = mention_targets(there, conversation, transcript, processor.codec, 2)
    assert len(pairs[0].unique()) == 1
    where = int(pairs[0, 0])
    assert processor.codec.decode(transcript.token_ids[where - 1 : where + 1].tolist()) == " the key"
    rows, columns = (side // 2 for side in (transcript.images[0].grid.h, transcript.images[0].grid.w))
    middle = ((mark.box[1] + mark.box[3]) / 2 / scene.image.height, (mark.box[0] + mark.box[2]) / 2 / scene.image.width)
    assert transcript.image_starts[0] + int(middle[0] * rows) * columns + int(middle[1] * columns) in pairs[1]


def test_a_large_letter_is_meant_by_box_and_table_alike(processor: Processor) -> None:
    scene = draw_scene("label", 3, "train")
    there = Scene(**{**vars(scene), "marks": (Mark(name="letter W", box=(0, 0, 90, 90)),)})
    for asked, times in (("In table W, what?", 1), ("Where is the letter W?", 1), ("Wax W in A7W", 0)):
        conversation = Conversation(scene.image)
        conversation.say(question_message(asked, conversation.unseen()), "<answer>yes</answer>")
        transcript = processor(conversation.messages)
        pairs = mention_targets(there, conversation, transcript, processor.codec, 2)
        assert len(pairs[0].unique()) == times, asked


def test_each_number_of_a_box_looks_along_its_side() -> None:
    conversation = Conversation(Image.new("RGB", (1000, 2000)))
    turn = '<tool_call>{"name":"zoom","arguments":{"image":0,"box":[100,200,400,300]}}</tool_call>'
    conversation.say(question_message("Where?", conversation.unseen()), turn)
    sides = [gaze for gaze in gazes(conversation, Drawing(conversation.images[0], (), (), ())) if gaze.kind == "side"]
    assert [turn[gaze.start : gaze.end] for gaze in sides] == ["100", "200", "400", "300"]
    assert [gaze.box for gaze in sides] == [
        (100, 400, 200, 600), (100, 400, 400, 500), (300, 400, 400, 600), (100, 500, 400, 600),
    ]  # fmt: skip


def test_the_first_layer_looks_at_what_was_read_and_the_second_at_what_comes(processor: Processor) -> None:
    scene = draw_scene("label", 3, "train")
    conversation = scene_conversation(scene.image, scene.questions[:1])
    transcript = processor(conversation.messages)
    first, second = looks(scene, conversation, transcript, processor.codec, 2)
    read = [gaze for gaze in gazes(conversation, scene) if gaze.kind == "read"]
    written = gaze_targets(read, conversation, transcript, processor.codec, 2, ahead=0)
    coming = gaze_targets(read, conversation, transcript, processor.codec, 2, ahead=1)
    assert torch.equal(first[:, -written.shape[1] :], written)
    assert torch.equal(second[:, -coming.shape[1] :], coming)
    assert torch.equal(written[0] - 1, coming[0])
