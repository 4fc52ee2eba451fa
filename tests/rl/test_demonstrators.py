"""Demonstrators with habits: what they add, and what stays right."""

import random

import pytest

from foveate.agent.messages import render_turn
from foveate.rl.demonstrators import AGAIN, AT_A_GLANCE, CHECKED, Demonstrators, demonstrated
from foveate.rl.oracle_messages import aim_exercises, scene_conversation
from foveate.rl.tasks.scene import FAMILIES, Question, draw_scene


def question_of(family: str) -> tuple[Question, tuple[int, int]]:
    scene = draw_scene(family, 5, "train")
    return scene.questions[0], scene.image.size


@pytest.mark.parametrize("family", FAMILIES)
def test_without_habits_it_is_the_oracle(family: str) -> None:
    question, _ = question_of(family)
    assert demonstrated(question, Demonstrators(), random.Random(0)) == question


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hasty_one_answers_at_once_and_has_no_other_habit(family: str) -> None:
    question, size = question_of(family)
    hasty = demonstrated(question, Demonstrators(hasty=1, restate=1, again=1, aloud=1), random.Random(0))
    assert (hasty.steps, hasty.final_thought, hasty.answer) == ((), AT_A_GLANCE, question.answer)
    assert aim_exercises([hasty], size) == [(question.text, render_turn(AT_A_GLANCE, question.answer))]


@pytest.mark.parametrize("family", FAMILIES)
def test_looking_again_sees_the_same_places(family: str) -> None:
    scene = draw_scene(family, 5, "train")
    question = scene.questions[0]
    again = demonstrated(question, Demonstrators(again=1), random.Random(0))
    boxes = scene_conversation(scene.image, [question]).boxes[1:]
    assert scene_conversation(scene.image, [again]).boxes[1:] == [box for box in boxes for _ in range(2)]
    assert [step.thought for step in again.steps].count(AGAIN) == len(boxes)


def test_restating_and_reading_aloud() -> None:
    question, _ = question_of("total")
    wordy = demonstrated(question, Demonstrators(restate=1, aloud=1), random.Random(0))
    assert all(step.thought.startswith(question.text) for step in wordy.steps)
    read, said = question.steps[-1].thought, question.final_thought
    assert wordy.final_thought == f"{question.text} {said} {CHECKED} {read} {said}"
    assert [step.arguments for step in wordy.steps] == [step.arguments for step in question.steps]
