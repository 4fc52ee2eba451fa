"""A gaze says which part of the picture a word of a turn comes from."""

import random

from PIL import Image

from foveate.agent.messages import question_message
from foveate.rl.lessons.gaze import gazes
from foveate.rl.lessons.oracle_messages import Conversation, flag_exercise, page_conversation, scene_conversation
from foveate.rl.lessons.pages import PageWriter, corpus_words, text_runs
from foveate.rl.lessons.views import page_drawing
from foveate.rl.tasks.scene import Drawing, Glyph, Mark, Scene, draw_scene


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


def test_a_page_is_looked_at_where_its_lines_are() -> None:
    page = PageWriter("train", corpus_words()).page(random.Random(4))
    drawing = page_drawing(page)
    runs = {"".join(glyph.character for glyph in run) for run in text_runs(drawing.glyphs)}
    assert {line.text for line in page.lines} <= runs | {line.text for line in page.lines if " " in line.text}
    found = gazes(page_conversation(page, random.Random(1), 8), drawing)
    assert len(found) > 8


def written(text: str, left: float, top: float) -> tuple[Glyph, ...]:
    """A text in characters of 10 x 20 px."""
    return tuple(Glyph(c, (left + 10 * n, top, left + 10 * n + 10, top + 20)) for n, c in enumerate(text))


def test_a_text_begins_after_the_one_that_was_read_or_asked_about() -> None:
    glyphs = (*written("Park", 0, 0), *written("14:48", 200, 0), *written("Dock", 0, 100), *written("9:30", 200, 100))
    drawing = Drawing(Image.new("RGB", (400, 200)), (), (), glyphs)
    conversation = Conversation(drawing.image)
    conversation.say(question_message('Read 1 after "Dock".', conversation.unseen()), "<answer>9:30</answer>")
    conversation.say(question_message("Read the page.", ()), "<answer>Park 14:48</answer>")
    starts = [(gaze.turn, gaze.box, gaze.after) for gaze in gazes(conversation, drawing) if gaze.box[0] in (0, 200)]
    assert starts == [
        (0, glyphs[13].box, glyphs[12].box), (1, glyphs[0].box, None), (1, glyphs[4].box, glyphs[3].box),
    ]  # fmt: skip


def test_a_name_in_quotes_is_asked_for_and_not_read() -> None:
    glyphs = (*written("Stock", 0, 0), *written("Price", 200, 0))
    drawing = Drawing(Image.new("RGB", (400, 200)), (), (), glyphs)
    conversation = Conversation(drawing.image)
    turn = '<answer>Find "Price". Stock, Price</answer>'
    conversation.say(question_message("Which column?", conversation.unseen()), turn)
    found = gazes(conversation, drawing)
    assert [(turn[gaze.start], gaze.box) for gaze in found] == [(g.character, g.box) for g in glyphs]
    assert found[5].start == turn.rindex("Price")


def test_the_name_of_a_country_looks_at_its_flag() -> None:
    boxes = {"flag of Peru": (0.0, 0.0, 40.0, 30.0), "flag of Chad": (60.0, 4.0, 100.0, 34.0)}
    marks = tuple(Mark(name=name, box=box) for name, box in boxes.items())
    drawing = Drawing(Image.new("RGB", (400, 200)), (), marks, ())
    conversation = Conversation(drawing.image)
    conversation.say(question_message("Name the flags.", conversation.unseen()), flag_exercise(marks)[0][1])
    assert conversation.messages[1]["content"] == "<answer>flag of Peru; flag of Chad</answer>"
    named = [(gaze.start, gaze.end, gaze.box) for gaze in gazes(conversation, drawing)]
    assert named == [(16, 20, boxes["flag of Peru"]), (30, 34, boxes["flag of Chad"])]


def test_the_end_of_a_text_is_read_where_the_turn_writes_only_that() -> None:
    glyphs = written("go to box T", 0, 0)
    drawing = Drawing(Image.new("RGB", (400, 200)), (), (), glyphs)
    conversation = Conversation(drawing.image)
    conversation.say(question_message("Which box?", conversation.unseen()), "<answer>box T</answer>")
    assert [gaze.box for gaze in gazes(conversation, drawing)] == [glyph.box for glyph in glyphs[-5:]]


def test_each_number_of_a_box_looks_along_its_side() -> None:
    conversation = Conversation(Image.new("RGB", (1000, 2000)))
    turn = '<tool_call>{"name":"zoom","arguments":{"image":0,"box":[100,200,400,300]}}</tool_call>'
    conversation.say(question_message("Where?", conversation.unseen()), turn)
    sides = [gaze for gaze in gazes(conversation, Drawing(conversation.images[0], (), (), ())) if gaze.kind == "side"]
    assert [turn[gaze.start : gaze.end] for gaze in sides] == ["100", "200", "400", "300"]
    assert [gaze.box for gaze in sides] == [
        (100, 400, 200, 600), (100, 400, 400, 500), (300, 400, 400, 600), (100, 500, 400, 600),
    ]  # fmt: skip


def test_each_digit_of_a_counting_looks_at_its_thing() -> None:
    scenes = (draw_scene("compare", seed, "train") for seed in range(30))
    scene = next(scene for scene in scenes if "I count" in scene.questions[0].steps[1].thought)
    question = scene.questions[0]
    found = [g for g in gazes(scene_conversation(scene.image, [question]), scene) if g.kind == "read"]
    counts = [int(n) for n in question.steps[2].arguments["code"][6:-1].split("+")]
    assert [sum(gaze.image == image for gaze in found) for image in (1, 2)] == counts
    for gaze in found:
        box = question.evidence[gaze.image - 1]
        assert box[0] <= (gaze.box[0] + gaze.box[2]) / 2 <= box[2]


def test_a_cell_is_found_by_the_marks_of_its_row_and_its_column() -> None:
    row, column = (0.0, 600.0, 40.0, 640.0), (480.0, 0.0, 520.0, 40.0)
    marks = (Mark(name="red star", box=row), Mark(name="letter B", box=column))
    drawing = Drawing(Image.new("RGB", (1000, 1000)), (), marks, ())
    conversation = Conversation(drawing.image)
    turn = (
        "<think>Row red star and column B meet at the bottom.</think>"
        '<tool_call>{"name":"zoom","arguments":{"image":0,"box":[400,500,600,700]}}</tool_call>'
    )
    conversation.say(question_message("What does it say?", conversation.unseen()), turn)
    found = [(turn[gaze.start : gaze.end], gaze.kind, gaze.box) for gaze in gazes(conversation, drawing)]
    assert [piece for piece, *_ in found[:2]] == [turn[turn.index("meet") : turn.index("400")]] * 2
    assert found[2:6] == [
        ("400", "point", column), ("500", "point", row), ("600", "point", column), ("700", "point", row),
    ]  # fmt: skip
    assert found[6:] == [
        ("400", "side", (400, 0, 466, 40)), ("500", "side", (0, 500, 40, 566)),
        ("600", "side", (534, 0, 600, 40)), ("700", "side", (0, 634, 40, 700)),
    ]  # fmt: skip


def test_equal_texts_are_each_read_and_one_that_is_said_again_is_looked_at_again() -> None:
    glyphs = tuple(
        glyph
        for line, (name, price) in enumerate((("ham", "2.00"), ("tea", "7.50"), ("fig", "2.00")))
        for glyph in (*written(name, 0, 100 * line), *written(price, 200, 100 * line))
    )
    drawing = Drawing(Image.new("RGB", (400, 300)), (), (), glyphs)
    conversation = Conversation(drawing.image)
    turn = (
        "<think>ham 2.00, tea 7.50, fig 2.00. tea 7.50 minus ham 2.00.</think>"
        '<tool_call>{"name":"python","arguments":{"code":"print(7.50-2.00)"}}</tool_call>'
    )
    conversation.say(question_message("How much more?", conversation.unseen()), turn)
    begun = [gaze for gaze in gazes(conversation, drawing) if gaze.box[0] in (0, 200)]
    assert [(turn[gaze.start :][:3], gaze.box[1]) for gaze in begun] == [
        ("ham", 0), ("2.0", 0), ("tea", 100), ("7.5", 100), ("fig", 200), ("2.0", 200), ("tea", 100), ("7.5", 100),
        ("ham", 0),
    ]  # fmt: skip
