"""What a model sees.

Proves: the strings that nano learns and meets are exactly those of the contract, a rendered turn parses back to what it
was made of, and text from outside never becomes a control tag of a turn.
"""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scripted import HERMES

from foveate.agent.messages import (
    CONTROL_TAGS,
    Call,
    assistant_message,
    observation_message,
    question_message,
    render_call,
    render_turn,
    resolve,
    system_message,
)
from foveate.agent.parse import parse
from foveate.tools.zoom import zoom_tool


def test_a_call_is_compact_json_between_tags() -> None:
    assert (
        render_call("zoom", {"image": 0, "box": [120, 40, 310, 90]})
        == '<tool_call>{"name":"zoom","arguments":{"image":0,"box":[120,40,310,90]}}</tool_call>'
    )


def test_turns_of_an_oracle() -> None:
    call = Call(name="python", arguments={"code": "print(4.5+3.2)"})
    assert render_turn("Add them.", call) == (
        '<think>Add them.</think><tool_call>{"name":"python","arguments":{"code":"print(4.5+3.2)"}}</tool_call>'
    )
    assert render_turn("It reads K7.", "K7") == "<think>It reads K7.</think><answer>K7</answer>"


letters = st.sampled_from('ab \n"\\{}[]:,/é✓\u2028\x00')


@given(
    thought=st.text(letters, max_size=20),
    code=st.lists(st.one_of(letters, st.sampled_from(CONTROL_TAGS)), max_size=12).map("".join),
)
def test_a_rendered_call_parses_back(thought: str, code: str) -> None:
    parsed = parse(render_turn(thought, Call(name="python", arguments={"code": code})))
    assert parsed.thought == thought.strip()
    assert parsed.calls == (Call(name="python", arguments={"code": code}),)


@pytest.mark.parametrize("tag", CONTROL_TAGS)
def test_control_tags_in_a_thought_or_an_answer_are_refused(tag: str) -> None:
    with pytest.raises(ValueError, match="wanted text without control tags"):
        render_turn(f"a {tag} b", "K7")
    with pytest.raises(ValueError, match="wanted text without control tags"):
        render_turn("a", f"K7{tag}")


def test_messages_of_a_conversation() -> None:
    picture = Image.new("RGB", (2, 2))
    assert question_message("What?", [picture, "ab" * 32]) == {
        "role": "user",
        "content": [
            {"type": "image", "image": picture},
            {"type": "image", "sha256": "ab" * 32},
            {"type": "text", "text": "What?"},
        ],
    }
    assert assistant_message("hi", [1, 2]) == {"role": "assistant", "content": "hi", "token_ids": [1, 2]}
    assert observation_message("call_0", "zoom", "image 1", picture) == {
        "role": "tool",
        "name": "zoom",
        "tool_call_id": "call_0",
        "content": [{"type": "text", "text": "image 1"}, {"type": "image", "image": picture}],
    }


def test_resolve_puts_pixels_in_place_of_references_and_leaves_the_state_alone() -> None:
    picture = Image.new("RGB", (2, 2))
    messages = [question_message("What?", ["ab" * 32]), assistant_message("hi")]
    resolved = resolve(messages, {"ab" * 32: picture}.__getitem__)
    assert resolved[0]["content"][0] == {"type": "image", "image": picture, "sha256": "ab" * 32}
    assert resolved[1:] == [assistant_message("hi")]
    assert messages[0]["content"][0] == {"type": "image", "sha256": "ab" * 32}


def test_text_that_utf8_cannot_hold_is_replaced() -> None:
    assert question_message("a\ud800b")["content"][0]["text"] == "a?b"


def test_the_system_message_lists_each_tool_with_its_schema_and_names_the_box_space() -> None:
    text = system_message([zoom_tool()], HERMES)["content"]
    listed = json.loads(text.split("<tools>\n")[1].split("\n</tools>")[0])
    assert listed == {
        "type": "function",
        "function": {
            "name": "zoom",
            "description": zoom_tool().description,
            "parameters": zoom_tool().parameters,
        },
    }
    assert "pixels of that image" in text
    assert "<tools>" not in system_message([], HERMES)["content"]


def test_a_template_that_lays_out_tools_is_handed_them() -> None:
    given = system_message([zoom_tool()], replace(HERMES, takes_tools=True))
    own = system_message([zoom_tool()], HERMES)["content"]
    assert [json.dumps(tool) for tool in given["tools"]] == [own.split("<tools>\n")[1].split("\n</tools>")[0]]
    assert given["content"] == own[: own.index("# Tools")] + own[own.index("Think inside") :]
    assert system_message([], replace(HERMES, takes_tools=True)) == system_message([], HERMES)
