"""The oracle can be replayed: crops lie in the picture and hold the evidence, code and searches say what it says."""

import random
import subprocess
import sys
from collections.abc import Callable

import pytest

from foveate.rl.tasks.assets import SPLITS, TEST_ONLY_ICONS, Split
from foveate.rl.tasks.canvas import Canvas
from foveate.rl.tasks.fact import ASK, askable, pick_subjects, query_of, split_of, subjects
from foveate.rl.tasks.oracle import MAX_SIDE, Draft, Look, crop_box, finish, place_word, run_code, seen_at
from foveate.rl.tasks.scene import FAMILIES, Box, Question, Scene, original_boxes
from foveate.rl.tasks.setting import draw_setting
from foveate.rl.tasks.sheet import crops
from foveate.rl.tasks.table import marked_page
from foveate.tools.search import search_tool
from foveate.tools.zoom import covered_pixels

VIEW_AREA = 448 * 448
Scenes = Callable[[str, Split], tuple[Scene, ...]]


def asked(scenes: Scenes, family: str) -> list[tuple[Scene, Question]]:
    return [(scene, q) for split in SPLITS for scene in scenes(family, split) for q in scene.questions]


def inside(inner: Box, outer: tuple[int, int, int, int]) -> bool:
    return (
        inner[0] >= outer[0] - 1 and inner[1] >= outer[1] - 1 and inner[2] <= outer[2] + 1 and inner[3] <= outer[3] + 1
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_crop_is_valid_for_the_zoom_tool_and_holds_its_evidence(family: str, scenes: Scenes) -> None:
    for scene, question in asked(scenes, family):
        seen = crops(scene, question)
        zooms = [step for step in question.steps if step.tool == "zoom"]
        assert zooms
        assert len(zooms) <= 2
        for step in zooms:
            box = step.arguments["box"]
            assert covered_pixels(seen[step.arguments["image"]].size, box) == box
            assert max(box[2] - box[0], box[3] - box[1]) <= MAX_SIDE + 2
        for evidence in question.evidence:
            assert any(inside(evidence, box) for box in original_boxes(question)), (scene.seed, question.text)


@pytest.mark.parametrize("family", FAMILIES)
def test_evidence_vanishes_at_first_view(family: str, scenes: Scenes) -> None:
    for scene, question in asked(scenes, family):
        scale = max(1.0, (scene.image.width * scene.image.height / VIEW_AREA) ** 0.5)
        if "How many" in question.text or "Count" in question.text or "the number of" in question.text:
            continue  # the field of counted things is large, its things are not
        for box in question.evidence:
            narrow = min(box[2] - box[0], box[3] - box[1]) / scale
            assert narrow < 10.5, (scene.seed, scene.split, question.text)


def test_the_code_prints_the_result_in_a_plain_interpreter(scenes: Scenes) -> None:
    steps = [
        step
        for family in ("total", "compare")
        for _, question in asked(scenes, family)
        for step in question.steps
        if step.tool == "python"
    ]
    assert steps
    code = "\n".join(step.arguments["code"] for step in steps)
    printed = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == [step.result for step in steps]


def test_computed_answers_are_what_the_code_prints(scenes: Scenes) -> None:
    for family in ("total", "compare"):
        for _, question in asked(scenes, family):
            assert question.steps[-1].result == question.answer


def test_what_is_computed_is_said_with_its_numbers_in_the_order_of_the_code(scenes: Scenes) -> None:
    picked = [q for _, q in asked(scenes, "total") if " plus " in q.steps[1].thought or " minus " in q.steps[1].thought]
    assert picked
    for question in picked:
        read, said = question.steps[1].thought.removesuffix(".").split(". ")
        parts = said.replace(" minus ", " plus ").split(" plus ")
        assert set(parts) <= set(read.split(", "))
        numbers = [part.split()[-1] for part in parts]
        code = question.steps[1].arguments["code"]
        assert code.startswith(("print(" + numbers[0], "print(round(" + numbers[0]))
        assert numbers[1] in code
        assert all(part.rsplit(" ", 1)[0] in question.text for part in parts)


def test_a_table_is_read_as_far_as_the_heading_that_is_sought(scenes: Scenes) -> None:
    thoughts = [(q.final_thought, q.answer) for _, q in asked(scenes, "table") if "Find" in q.final_thought]
    assert thoughts
    for thought, answer in thoughts:
        sought, headings, row = thought.removesuffix(".").split(". ", 2)
        names, number = headings.split(": column ")
        assert sought == f'Find "{names.split(", ")[-1]}"'
        assert len(names.split(", ")) == len(row.split(", ")) == int(number)
        assert row.endswith(f" {answer}")


def test_search_results_are_those_of_the_search_tool_and_hold_the_answer(scenes: Scenes) -> None:
    search = search_tool()
    for _, question in asked(scenes, "fact"):
        step = question.steps[-1]
        assert search.call({"query": step.arguments["query"]}, ()).text == step.result
        assert question.answer in step.result


def test_the_search_finds_facts_of_every_kind_of_sign() -> None:
    search, rng = search_tool(), random.Random(0)
    for kind in ASK:
        for subject in rng.sample([subject for split in SPLITS for subject in subjects(kind, split)], 25):
            fact = rng.choice(subject.known)
            name = subject.name if kind == "flag" else subject.shown
            assert search.call({"query": query_of(fact.relation, name)}, ()).text == f"{fact.title}: {fact.text}"


def test_a_fact_is_asked_in_one_split_alone(scenes: Scenes) -> None:
    known = [fact for rows in askable().values() for fact in rows]
    by_result = {f"{fact.title}: {fact.text}": fact for fact in known}
    for split in SPLITS:
        facts = [by_result[q.steps[-1].result] for scene in scenes("fact", split) for q in scene.questions]
        assert facts
        assert {split_of(fact) for fact in facts} == {split}
    for split in ("test", "validation"):
        assert 0.15 < sum(split_of(fact) == split for fact in known) / len(known) < 0.2
    norway = {fact.relation: split_of(fact) for fact in known if fact.subject == "Norway"}
    assert norway.pop("population") == "validation"  # on every machine
    assert set(norway.values()) == {"train"}


def test_a_relation_is_about_as_common_in_every_split() -> None:
    """One fact of a country is asked in test, five in training: who has a capital to be asked comes oftener."""
    for split in SPLITS:
        rng, known = random.Random(0), subjects("country sign", split)
        picked = [subject for _ in range(100) for subject in pick_subjects(rng, known, 10)]
        capital = sum(any(fact.relation == "capital" for fact in subject.known) for subject in picked)
        assert 0.5 < capital / len(picked) < 0.9


def test_crops_have_margins_and_stay_inside() -> None:
    rng = random.Random(1)
    for _ in range(300):
        x, y = rng.uniform(0, 1900), rng.uniform(0, 1300)
        target = (x, y, min(2000.0, x + rng.uniform(10, 560)), min(1400.0, y + rng.uniform(10, 560)))
        box = crop_box(target, (0, 0, 2000, 1400))
        assert inside(target, box)
        assert 0 <= box[0] < box[2] <= 2000
        assert 0 <= box[1] < box[3] <= 1400


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((0, 0, 10, 10), "top left"),
        ((45, 45, 55, 55), "middle"),
        ((90, 40, 99, 50), "right"),
        ((40, 90, 50, 99), "bottom"),
    ],
)
def test_places_have_nine_names(box: Box, place: str) -> None:
    assert place_word(box, (100, 100)) == place


def test_what_is_asked_twice_in_the_same_words_is_asked_once() -> None:
    canvas = Canvas(random.Random(0), "train", (1300, 1000))
    look = Look(thought="", target=(100, 100, 200, 130))
    drafts = [
        Draft(text=text, answer="7", evidence=((100, 100, 200, 130),), plan=(look,), final_thought="It says 7.")
        for text in ("What?", "Which?", "What?")
    ]
    assert [question.text for question in finish(canvas, drafts, "label").questions] == ["What?", "Which?"]


def test_no_cell_is_asked_of_a_row_that_only_test_shows() -> None:
    for seed in (3, 32, 35):
        canvas = Canvas(random.Random(seed), "test", (1300, 1000))
        asked = [draft.text for draft in marked_page(canvas, draw_setting(canvas, "plain"))]
        assert any(mark.name in TEST_ONLY_ICONS for mark in canvas.marks)
        assert asked
        assert not any(f" {name}" in text for text in asked for name in TEST_ONLY_ICONS)


def test_plural_things_are_somewhere() -> None:
    assert seen_at("The scissors", (45, 45, 55, 55), (100, 100)) == "The scissors are in the middle."
    assert seen_at("The red star", (110, 110, 120, 120), (100, 100, 200, 200)) == "The red star is at the top left."


def test_code_has_no_builtins_but_arithmetic() -> None:
    assert run_code("print(round(4.50+3.20,2))") == "7.7"
    with pytest.raises(NameError):
        run_code("open('x')")
