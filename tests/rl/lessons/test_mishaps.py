"""Calls that fail: the question ends with the error, in the words that the agent itself would give the model."""

import random

import pytest

from foveate.agent.messages import render_turn
from foveate.rl.lessons.mishaps import ERRORS, THOUGHTS, UNKNOWN, failing
from foveate.rl.lessons.oracle_messages import scene_conversation
from foveate.rl.reward import is_right
from foveate.rl.tasks.scene import FAMILIES, draw_scene
from foveate.tools import sandbox
from foveate.tools.python import PythonTool
from foveate.tools.tool import ToolCall, perform


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_call_fails_and_the_answer_is_not_known(family: str) -> None:
    scene, rng = draw_scene(family, 5, "train"), random.Random(0)
    for question in scene.questions:
        tools = [step.tool for step in question.steps if step.tool in ERRORS]
        ended = failing(question, rng)
        if not tools:
            assert ended == question
            continue
        *_, result, answer = scene_conversation(scene.image, [ended]).messages
        assert result["content"][0]["text"] in ERRORS[tools[-1]]
        assert answer["content"] == render_turn(THOUGHTS[tools[-1]], UNKNOWN)
        assert ended.steps[:-1] == question.steps[: len(ended.steps) - 1]
        assert not is_right(ended.answer, question.answer, question.accept)


def test_the_words_are_the_tools_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "probe_result", lambda: sandbox.ABSENT)
    told = perform([PythonTool()], ToolCall(id="", name="python", arguments={"code": "1"}), []).text
    assert told in ERRORS["python"]
