"""Demonstrators with habits: what they do more, and what stays right."""

import random

import pytest

from foveate.agent.messages import render_turn
from foveate.rl.lessons.demonstrators import ASSURANCES, MOST_LOOKS, NO_ANSWER, Demonstrators, demonstrated
from foveate.rl.lessons.oracle_messages import aim_exercises, scene_conversation
from foveate.rl.reward import is_right
from foveate.rl.tasks.scene import FAMILIES, draw_scene


@pytest.mark.parametrize("family", FAMILIES)
def test_without_habits_it_is_the_oracle(family: str) -> None:
    question = draw_scene(family, 5, "train").questions[0]
    assert demonstrated(question, Demonstrators(), random.Random(0)) == question


@pytest.mark.parametrize("family", FAMILIES)
def test_an_idle_one_gives_up_at_once(family: str) -> None:
    scene = draw_scene(family, 5, "train")
    idle = demonstrated(scene.questions[0], Demonstrators(idle=1, again=1), random.Random(0))
    assert (idle.steps, idle.answer) == ((), NO_ANSWER)
    assert not is_right(idle.answer, scene.questions[0].answer, scene.questions[0].accept)
    assert aim_exercises([idle], scene.image.size) == [(idle.text, render_turn("", NO_ANSWER))]


@pytest.mark.parametrize("family", FAMILIES)
def test_looking_again_sees_the_same_places(family: str) -> None:
    scene = draw_scene(family, 5, "train")
    question = scene.questions[0]
    boxes = scene_conversation(scene.image, [question]).boxes[1:]
    again = demonstrated(question, Demonstrators(again=1), random.Random(0))
    assert scene_conversation(scene.image, [again]).boxes[1:] == [box for box in boxes for _ in range(MOST_LOOKS)]
    assert [step for step in again.steps if step.tool != "zoom"] == [s for s in question.steps if s.tool != "zoom"]


def test_a_sure_one_says_so_and_nothing_else() -> None:
    question, rng = draw_scene("compare", 5, "train").questions[0], random.Random(0)
    sure = [demonstrated(question, Demonstrators(sure=0.8), rng) for _ in range(50)]
    assert {one.final_thought.removeprefix(question.final_thought) for one in sure} == {
        "".join(ASSURANCES[:count]) for count in range(len(ASSURANCES) + 1)
    }
    assert all(one.steps == question.steps and one.answer == question.answer for one in sure)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shy_one_does_all_and_gives_no_answer(family: str) -> None:
    question = draw_scene(family, 5, "train").questions[0]
    shy = demonstrated(question, Demonstrators(shy=1, sure=1), random.Random(0))
    assert (shy.steps, shy.final_thought, shy.answer) == (question.steps, question.final_thought, NO_ANSWER)
    others = tuple(other for other in FAMILIES if other != family)
    assert demonstrated(question, Demonstrators(shy=1, shy_of=others), random.Random(0)) == question


def test_samples_of_a_question_differ_in_length() -> None:
    question, rng = draw_scene("compare", 5, "train").questions[0], random.Random(0)
    counts = {len(demonstrated(question, Demonstrators(again=0.5), rng).steps) for _ in range(50)}
    assert len(question.steps) in counts
    assert len(counts) > 3
