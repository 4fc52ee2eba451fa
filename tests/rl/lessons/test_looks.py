"""Looks say which head of which token attends to what; their losses reward that alone."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from foveate.agent.messages import question_message
from foveate.models.config import NANO
from foveate.models.decoder import Decoder
from foveate.models.processor import Processor
from foveate.models.tokenizer import TextCodec
from foveate.models.transcript import Transcript, image_rows
from foveate.rl.lessons.look_losses import REST_WEIGHT, brought_loss, characters_as_tokens, searches
from foveate.rl.lessons.look_losses import gaze_loss as loss_of_searches
from foveate.rl.lessons.looks import Reading, Targets, aimed, looks, watched_heads
from foveate.rl.lessons.oracle_messages import Conversation, scene_conversation
from foveate.rl.lessons.pages import CLASS_OF
from foveate.rl.lessons.spelling import Letter, Spelling, Text, text_of
from foveate.rl.tasks.scene import FAMILIES, Drawing, Glyph, Mark, draw_scene

TOKENIZER = Path(__file__).parents[3] / "models" / "nano" / "weights" / "tokenizer.json"


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor(NANO, TextCodec.from_file(TOKENIZER))


def looks_of(
    drawing: Drawing, conversation: Conversation, processor: Processor
) -> tuple[Transcript, torch.Tensor, torch.Tensor]:
    transcript = processor(conversation.messages)
    first, second = looks(drawing, conversation, transcript, processor.codec, NANO)
    grids = [image.grid for image in transcript.images]
    texts = [
        text_of(drawing.glyphs, box, grid, NANO.vision)[0] for box, grid in zip(conversation.boxes, grids, strict=True)
    ]
    rows, heads = image_rows(transcript.images, transcript.image_starts), watched_heads(NANO.decoder)
    return transcript, *(aimed(targets, Spelling(texts), rows, heads) for targets in (first, second))


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_look_back_at_images_or_rest(family: str, processor: Processor) -> None:
    scene = draw_scene(family, 5, "train")
    conversation = scene_conversation(scene.image, scene.questions)
    transcript, *layers = looks_of(scene, conversation, processor)
    zooms = sum(step.tool == "zoom" for question in scene.questions for step in question.steps)
    assert len(layers[0][0].unique()) > 10 * zooms
    for token_P, head_P, key_P in layers:
        assert (key_P <= token_P).all()
        assert (head_P < NANO.decoder.num_heads).all()
        assert (transcript.token_ids[key_P[key_P > 0]] == processor.codec.image_pad).all()


def reading(said: str) -> tuple[Drawing, Conversation]:
    """A picture of 320 x 256 px, ten tokens wide, that holds "ab 7xy" in characters of 12 px, and a turn about it."""
    glyphs = tuple(Glyph(c, (64 + 12 * n, 64, 64 + 12 * n + 12, 88)) for n, c in enumerate("ab 7xy"))
    drawing = Drawing(Image.new("RGB", (320, 256)), (), (), glyphs)
    conversation = Conversation(drawing.image)
    conversation.say(question_message("Read the page.", conversation.unseen()), said)
    return drawing, conversation


def test_one_head_looks_at_a_character_by_its_place_and_the_others_rest(processor: Processor) -> None:
    drawing, conversation = reading("<answer>ab 7xy</answer>")
    transcript, first, second = looks_of(drawing, conversation, processor)
    begin = len(transcript) - 9
    assert processor.codec.decode(transcript.token_ids[begin : begin + 6].tolist()) == "ab 7xy"
    image = transcript.image_starts[0] + 2 * 10
    spots = [(0, 2), (1, 2), (1, 2), (0, 3), (1, 3), (0, 4)]
    share = NANO.decoder.num_heads // NANO.decoder.num_kv_heads
    aimed = [(begin + n, share * place, image + column) for n, (place, column) in enumerate(spots)]
    assert active(first) == aimed
    assert active(second) == [(token - 1, head, key) for token, head, key in aimed if token != begin + 2]
    assert {int(token) for token in second[0]} == set(range(begin - 1, begin + 6))
    assert second.shape[1] == 7 * NANO.decoder.num_kv_heads


def active(looks_3P: torch.Tensor) -> list[tuple[int, ...]]:
    """Looks that do not rest, in the order of their tokens."""
    return sorted(tuple(look) for look in looks_3P.T.tolist() if look[2])


def test_things_are_counted_in_the_order_in_which_tokens_spell_them() -> None:
    texts = [Text(rows=2, columns=2, letters=tuple(Letter(CLASS_OF["*"], y, x, 0.3, True, True)
                                                   for y, x in ((1.5, 0.5), (0.5, 1.5), (0.4, 0.5))))]  # fmt: skip
    readings = tuple(Reading(10 + n, 0, letter, (0, 1, 2)) for n, letter in enumerate((0, 1, 2)))
    looks_3P = aimed(Targets(readings=readings), Spelling(texts), torch.arange(4, 8), range(2))
    first_head = looks_3P[:, looks_3P[1] == 0]
    assert first_head[0].tolist() == [10, 11, 12]
    assert first_head[2].tolist() == [4, 5, 6]


def test_before_a_text_begins_the_first_layer_looks_at_the_one_before(processor: Processor) -> None:
    glyphs = tuple(
        Glyph(c, (x + 12 * n, y, x + 12 * n + 12, y + 24))
        for text, x, y in (("ab", 64, 64), ("cd", 64, 128))
        for n, c in enumerate(text)
    )
    drawing = Drawing(Image.new("RGB", (320, 256)), (), (), glyphs)
    conversation = Conversation(drawing.image)
    conversation.say(question_message("What?", conversation.unseen()), "<answer>ab, cd</answer>")
    transcript, first, _ = looks_of(drawing, conversation, processor)
    begin = transcript.token_ids.tolist().index(processor.codec.encode("c")[0], transcript.image_starts[0])
    assert (begin - 1, 2, transcript.image_starts[0] + 2 * 10 + 2) in active(first)


def test_whoever_names_a_thing_looks_at_it(processor: Processor) -> None:
    scene = draw_scene("label", 3, "train")
    box = scene.marks[0].box
    there = Drawing(scene.image, (), (Mark(name="key", box=box),), ())
    conversation = Conversation(scene.image)
    conversation.say(question_message("Find the sun; the key.", conversation.unseen()), "<answer></answer>")
    transcript, first, _ = looks_of(there, conversation, processor)
    (where,) = first[0].unique().tolist()
    assert processor.codec.decode(transcript.token_ids[where - 1 : where + 1].tolist()) == " the key"
    assert first[1].unique().tolist() == [0, 2, 4, 6]
    rows, columns = (side // 2 for side in (transcript.images[0].grid.h, transcript.images[0].grid.w))
    middle = ((box[1] + box[3]) / 2 / scene.image.height, (box[0] + box[2]) / 2 / scene.image.width)
    assert transcript.image_starts[0] + int(middle[0] * rows) * columns + int(middle[1] * columns) in first[2]


def test_a_large_letter_is_meant_by_box_and_table_alike(processor: Processor) -> None:
    picture = Image.new("RGB", (900, 900))
    there = Drawing(picture, (), (Mark(name="letter W", box=(0, 0, 90, 90)),), ())
    for asked, times in (("In table W, what?", 1), ("Where is the letter W?", 1), ("Wax W in A7W", 0)):
        conversation = Conversation(picture)
        conversation.say(question_message(asked, conversation.unseen()), "<answer>yes</answer>")
        _, first, _ = looks_of(there, conversation, processor)
        assert len(first[0].unique()) == times, asked


def gaze_loss(
    q_THD: torch.Tensor, k_TGD: torch.Tensor, looks_3P: torch.Tensor, lengths: list[int], together: int = 1
) -> torch.Tensor:
    return loss_of_searches(q_THD, k_TGD, searches(looks_3P, lengths, together))


def test_the_loss_falls_to_zero_when_all_attention_lies_on_the_target() -> None:
    keys = torch.eye(8)[:, None]
    wanted = torch.tensor([[5, 5, 7], [0, 0, 1], [1, 2, 4]])
    aimed = torch.zeros(8, 2, 8)
    aimed[5, 0, 1:3], aimed[7, 1, 4] = 200.0, 200.0
    assert gaze_loss(aimed, keys, wanted, [8]) < 1e-6
    blind = gaze_loss(torch.zeros(8, 2, 8), keys, wanted, [8])
    torch.testing.assert_close(blind, torch.tensor([6 / 2, 8 / 1]).log().mean())
    late = torch.zeros(8, 2, 8)
    late[5, :, 7] = 200.0
    torch.testing.assert_close(gaze_loss(late, keys, wanted, [8]), blind)


def test_a_head_that_should_rest_counts_less() -> None:
    q, k = torch.zeros(8, 2, 8), torch.eye(8)[:, None]
    loss = gaze_loss(q, k, torch.tensor([[3, 3], [0, 1], [2, 0]]), [8])
    torch.testing.assert_close(loss, (1 + REST_WEIGHT) * torch.tensor(4.0).log())
    packed = gaze_loss(torch.cat([q[:5], q]), torch.cat([k[:5], k]), torch.tensor([[8, 8], [0, 1], [7, 0]]), [5, 8])
    torch.testing.assert_close(packed, loss)


def test_conversations_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(12, 2, 4), torch.randn(12, 1, 4)
    apart = [gaze_loss(q[s : s + 6], k[s : s + 6], torch.tensor([[5], [1], [2]]), [6]) for s in (0, 6)]
    packed = gaze_loss(q, k, torch.tensor([[5, 11], [1, 1], [2, 8]]), [6, 6])
    torch.testing.assert_close(packed, torch.stack(apart).mean())


def test_conversations_together_lose_what_they_lose_alone() -> None:
    torch.manual_seed(0)
    lengths = [9, 4, 30, 1, 17, 9]
    starts = torch.tensor([0, 9, 13, 43, 44, 61])
    conversation_P = torch.tensor([0, 0, 1, 2, 4, 5]).repeat(40)
    token_P = starts[conversation_P] + (torch.rand(240) * torch.tensor(lengths)[conversation_P]).long()
    key_P = starts[conversation_P] + (torch.rand(240) * (token_P - starts[conversation_P] + 1)).long()
    key_P[::5] = 0
    looks_3P = torch.stack([token_P, torch.randint(4, (240,)), key_P])
    losses, gradients = [], []
    for together in (1, 2, 6):
        torch.manual_seed(1)
        q, k = torch.randn(70, 4, 8, requires_grad=True), torch.randn(70, 2, 8, requires_grad=True)
        losses.append(gaze_loss(q, k, looks_3P, lengths, together))
        gradients.append(torch.autograd.grad(losses[-1], (q, k)))
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0])
        torch.testing.assert_close(gradient, gradients[0])
    assert loss_of_searches(q, k, searches(looks_3P[:, :0], lengths, 6)) == 0


def test_a_head_brings_the_character_of_its_place(processor: Processor) -> None:
    config = NANO.decoder
    decoder, tokens = Decoder(config), characters_as_tokens(processor.codec)
    rows = [["a", "7"], ["", ""], ["€", "b"]]
    spelled = torch.tensor([[CLASS_OF.get(character, 0) for character in row] + [0, 0] for row in rows])
    embedded = decoder.embed(torch.stack([tokens[CLASS_OF[c]] for c in "a7b"])).detach()
    values = torch.zeros(3, config.num_kv_heads, config.head_dim)
    values[0, 0, 0], values[2, 1, 2] = 1.0, 1.0
    proj = decoder.blocks[4].attn.proj.weight.detach().zero_().unflatten(1, (config.num_heads, -1))
    proj[:, 0, 0], proj[:, 2, 2] = embedded[0], embedded[2]
    _, right = brought_loss(decoder, 4, values, spelled, tokens)
    assert right == pytest.approx(2 / 3)
    assert brought_loss(decoder, 4, values, torch.zeros(3, 4, dtype=torch.long), tokens)[1] is None
