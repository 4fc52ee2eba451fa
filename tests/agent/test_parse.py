"""What a model writes.

Proves: every dialect of the peers becomes the same calls, hostile or broken text becomes a ParseError and nothing else,
and what a call holds is plain JSON that a checkpoint can store.
"""

import contextlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.agent.messages import Call
from foveate.agent.parse import MAX_REPAIR_CHARS, parse, split_thought
from foveate.errors import ParseError
from foveate.models.reasoner import BoxSpace


def zoom(image: object, box: object, space: BoxSpace | None = None) -> Call:
    return Call(name="zoom", arguments={"image": image, "box": box}, box_space=space)


DIALECTS = {
    "nano": (
        '<think>t</think><tool_call>{"name":"zoom","arguments":{"image":1,"box":[1,2,3,4]}}</tool_call>',
        zoom(1, [1, 2, 3, 4]),
    ),
    "deepeyes": (
        (
            '<think>t</think>\n<tool_call>\n{"name": "image_zoom_in_tool", "arguments": '
            '{"bbox_2d": [10, 20, 100, 200], "label": "sign"}}\n</tool_call>'
        ),
        zoom(0, [10, 20, 100, 200]),
    ),
    "qwen3": (
        (
            '<think>t</think><tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 3, 4], '
            '"label": "x", "img_idx": 2}}</tool_call>'
        ),
        zoom(2, [1, 2, 3, 4]),
    ),
    "thought opened by the template": (
        't</think><tool_call>{"name": "zoom", "arguments": {"image": 0, "box": [1, 2, 3, 4]}}</tool_call>',
        zoom(0, [1, 2, 3, 4]),
    ),
    "mini-o3 original": (
        '<think>t</think><grounding>{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "source": "original_image"}</grounding>',
        zoom(0, [0.1, 0.2, 0.3, 0.4], "unit"),
    ),
    "mini-o3 observation": (
        '<think>t</think><grounding>{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "source": "observation_2"}</grounding>',
        replace(zoom(0, [0.1, 0.2, 0.3, 0.4], "unit"), observation=2),
    ),
    "pixel-reasoner": (
        (
            't <tool_call>{"name": "crop_image_normalized", "arguments": {"bbox_2d": [0.1, 0.2, 0.3, 0.4], '
            '"target_image": 1}}</tool_call>'
        ),
        zoom(0, [0.1, 0.2, 0.3, 0.4], "unit"),
    ),
    "thyme": (
        "<think>t</think><code>\n```python\nprint(1 < 2)\n```\n</code>",
        Call(name="python", arguments={"code": "print(1 < 2)"}),
    ),
    "pyvision without a fence": (
        "<think>t</think><code>print(1)</code>",
        Call(name="python", arguments={"code": "print(1)"}),
    ),
    "kimi": (
        '◁think▷t◁/think▷<tool_call>{"name": "zoom", "arguments": {"image": 0, "box": [0, 0, 0.5, 1]}}</tool_call>',
        zoom(0, [0, 0, 0.5, 1]),
    ),
    "kimi, its thought opened by the template": (
        't◁/think▷<tool_call>{"name": "zoom", "arguments": {"image": 0, "box": [0, 0, 0.5, 1]}}</tool_call>',
        zoom(0, [0, 0, 0.5, 1]),
    ),
    "openthinkimg": (
        '{"thought": "t", "actions": [{"name": "search", "arguments": {"query": "q"}}]}',
        Call(name="search", arguments={"query": "q"}),
    ),
    "arguments as a string": (
        '<think>t</think><tool_call>{"name": "web_search", "arguments": "{\\"query\\": \\"q\\"}"}</tool_call>',
        Call(name="search", arguments={"query": "q"}),
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_becomes_one_form(dialect: str) -> None:
    text, call = DIALECTS[dialect]
    parsed = parse(text)
    assert parsed.calls == (call,)
    assert parsed.thought == "t"
    assert parsed.answer is None


@pytest.mark.parametrize(
    ("text", "answer", "thought"),
    [
        ("<think>t</think><answer>K7</answer>", "K7", "t"),
        ("<think>t</think><answer> K7", "K7", "t"),
        ("<answer>a</answer><answer>b</answer>", "b", ""),
        ("<think>t</think>K7", "K7", "t"),
        ("t</think>\n\nK7", "K7", "t"),
        ("K7", "K7", ""),
        ("◁think▷t◁/think▷K7", "K7", "t"),
        (
            "See <|object_ref_start|>the sign<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>.",
            "See the sign (10,20),(30,40).",
            "",
        ),
        ("So it is \\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "So it is \\boxed{\\frac{1}{2}}"),
        ("<think>t</think><answer>\\boxed{7}</answer>", "7", "t"),
        ('{"thought": "t", "actions": [{"name": "Terminate", "arguments": {"ans": "K7"}}]}', "K7", "t"),
    ],
)
def test_answers(text: str, answer: str, thought: str) -> None:
    parsed = parse(text)
    assert (parsed.answer, parsed.thought, parsed.calls) == (answer, thought, ())


def test_all_calls_of_a_turn_count_in_order() -> None:
    text = "".join(f'<tool_call>{{"name":"search","arguments":{{"query":"{query}"}}}}</tool_call>' for query in "abc")
    assert [call.arguments["query"] for call in parse(text + "<code>x</code>").calls[:3]] == ["a", "b", "c"]
    assert len(parse(text + "<code>x</code>").calls) == 4


def test_several_calls_of_one_block_count_and_none_is_lost_by_a_repair() -> None:
    one, two = (f'{{"name": "search", "arguments": {{"query": "{query}"}}}}' for query in "ab")
    for between in ("", "\n"):
        calls = parse(f"<tool_call>\n{one}{between}{two}\n</tool_call>").calls
        assert [call.arguments["query"] for call in calls] == ["a", "b"]
    with pytest.raises(ParseError, match="malformed JSON"):
        parse(f"<tool_call>{one}\n{two[:-1]}</tool_call>")
    with pytest.raises(ParseError, match="wanted an object with a value"):
        parse('<tool_call>{"name": "search", "arguments": "{} {}"}</tool_call>')


def test_code_with_line_breaks_inside_its_string_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    code = 'for n in range(3):\n    print(n, "x: y,")\n'
    written = code.replace('"', '\\"')
    call = f'{{"name": "python", "arguments": {{"code": "{written}"}}}}'
    assert parse(f"<tool_call>{call}</tool_call>").calls == (Call(name="python", arguments={"code": code}),)
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The button says <code>Run</code>.", "The button says Run."),
        ("<code>Run</code> <b>starts</b> it", "Run <b>starts</b> it"),
        ("Press <code>Ctrl</code> <code>C</code>", "Press Ctrl C"),
        ("<think>t</think>Use <code>a</code> or\n<code>b</code>, then.", "Use a or\nb, then."),
    ],
)
def test_a_word_of_code_in_a_line_of_text_is_quoted(text: str, answer: str) -> None:
    assert (parse(text).answer, parse(text).calls) == (answer, ())


@pytest.mark.parametrize(
    "text", ["Let me compute: <code>print(37*41)</code>", "So <code>x = 3</code>", "<code>x</code>"]
)
def test_what_computes_is_run_wherever_it_stands(text: str) -> None:
    assert [call.name for call in parse(text).calls] == ["python"]


@pytest.mark.parametrize("call", [text.partition("</think>")[2] for text, _ in DIALECTS.values() if "</think>" in text])
@pytest.mark.parametrize(("opening", "closing"), [("<think>", "</think>"), ("◁think▷", "◁/think▷")])
def test_calls_inside_a_thought_do_not_count(call: str, opening: str, closing: str) -> None:
    assert parse(f"{opening}I could {call}{closing}<answer>K7</answer>").calls == ()
    assert parse(f"I could {call}{closing}K7").answer == "K7"
    with pytest.raises(ParseError, match="nothing after it"):
        parse(f"{opening}I could {call}{closing}")
    with pytest.raises(ParseError, match="nothing after it"):
        parse(f"{opening}never closed {call}")


def test_malformed_json_is_repaired_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        parsed = parse("<tool_call>{'name': 'zoom', 'arguments': {'image': 0, 'box': [1, 2, 3, 4,]}</tool_call>")
    assert parsed.calls == (zoom(0, [1, 2, 3, 4]),)
    assert "repaired malformed JSON" in caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "an empty turn"),
        ("<think></think>", "an empty turn"),
        ("<answer>  </answer>", "an empty answer"),
        ("K7</answer>", "a lone </answer>"),
        ("<think>Hm.</think><answer>It is</think><tool_call>", "a </think> inside an answer"),
        ('{"name":"zoom","arguments":{}}', "outside of <tool_call> tags"),
        ('```json\n{"name": "zoom", "arguments": {}}\n```', "outside of <tool_call> tags"),
        ('I look closer.\n{"name": "zoom", "parameters": {"image": 0}}', "outside of <tool_call> tags"),
        ("[TOOL_CALLS]zoom[ARGS]{}", "outside of <tool_call> tags"),
        ("<|tool_call>call:zoom{image:0}<tool_call|>", "outside of <tool_call> tags"),
        ("<function=zoom>\n<parameter=image>0</parameter>\n</function>", "outside of <tool_call> tags"),
        ("<tool_call></tool_call>", "malformed JSON"),
        ("<tool_call>zoom please</tool_call>", "malformed JSON"),
        ("<tool_call>[1, 2]</tool_call>", "wanted an object"),
        ('<tool_call>{"name": 5, "arguments": {}}</tool_call>', "wanted an object"),
        ('<tool_call>{"name": "zoom", "arguments": [1]}</tool_call>', "wanted an object with a value"),
        ('<tool_call>{"name": "zoom", "arguments": {"image": 0', "without </tool_call>"),
        ("<code>print(1)", "without </code>"),
        ('<grounding>{"source": "original_image"}</grounding>', "got the grounding"),
        ('<grounding>{"bbox_2d": [0,0,1,1], "source": "/etc/passwd"}</grounding>', "got the source"),
        (
            '<tool_call>{"name":"crop_image_normalized","arguments":{"bbox_2d":[0,0,1,1],"target_image":0}}</tool_call>',
            "wanted a number from 1",
        ),
        ('<tool_call>{"name":"zoom","arguments":{}}</tool_call><answer>K7</answer>', "calls and an answer"),
        ('{"thought": "t", "actions": []}', 'a list "actions"'),
        ('{"actions": [{"name": "Terminate", "arguments": {}}]}', "without an answer"),
        ('{"actions": [{"name": "a"}, {"name": "Terminate"}]}', "beside other actions"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "malformed JSON"),
        ("<tool_call>{'a': " + "1" * MAX_REPAIR_CHARS + "}</tool_call>", "malformed JSON"),
        (
            '<tool_call>{"name":"f","arguments":{"a":' + "[" * 40 + "]" * 40 + "}}</tool_call>",
            "nested deeper",
        ),
    ],
)
def test_what_is_wrong_is_told(text: str, told: str) -> None:
    with pytest.raises(ParseError, match=told.replace("(", r"\(")) as error:
        parse(text)
    assert len(str(error.value)) < 400


def test_model_text_is_never_evaluated(tmp_path: Path) -> None:
    made = tmp_path / "made"
    code = f'__import__("pathlib").Path("{made}").touch()'
    for tag in ("tool_call", "grounding"):
        for form in (code, f'{{"name": {code}}}', f'{{"bbox_2d": [{code}, 1, 1, 1]}}'):
            with contextlib.suppress(ParseError):
                parse(f"<{tag}>{form}</{tag}>")
    assert not made.exists()


def test_values_that_a_checkpoint_cannot_hold_become_strings() -> None:
    text = '{"name":"f","arguments":{"a":NaN,"b":-Infinity,"c":1e999,"d":123456789012345678901234,"e":"\\ud800"}}'
    arguments = parse(f"<tool_call>{text}</tool_call>").calls[0].arguments
    assert arguments == {"a": "nan", "b": "-inf", "c": "inf", "d": "123456789012345678901234", "e": "?"}


def test_a_number_of_too_many_digits_becomes_a_string() -> None:
    call = '<tool_call>{"name":"f","arguments":{"n":' + "9" * 5000 + "}}</tool_call>"
    assert parse(call).calls[0].arguments == {"n": "9" * 5000}


def test_the_thought_of_text_that_does_not_parse() -> None:
    assert split_thought("<think>a</think><tool_call>{") == "a"
    assert split_thought("<think>never closed") == "never closed"
    assert split_thought("no tags") == "no tags"


TAGS = [f"<{slash}{tag}>" for tag in ("think", "tool_call", "answer", "code", "grounding") for slash in ("", "/")]
JSON = [
    '{"name":"zoom","arguments":{"image":0,"box":[1,2,3,4]}}',
    '{"name"',
    ':{"a":[',
    "}",
    '{"actions":[',
    "1e999",
    "NaN",
]
pieces = st.sampled_from([*TAGS, *JSON, "\\boxed{", "```py\n", "\ud800", "\x00", "text"])


@given(st.lists(st.one_of(pieces, st.text(max_size=5)), max_size=12).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parsed = parse(text)
    except ParseError:
        return
    assert bool(parsed.calls) != (parsed.answer is not None)
    for call in parsed.calls:
        json.dumps(call.arguments, allow_nan=False).encode("utf-8")


def test_parameters_are_arguments() -> None:
    (call,) = parse('<tool_call>{"name": "search", "parameters": {"query": "x"}}</tool_call>').calls
    assert call.arguments == {"query": "x"}


def test_an_answer_may_name_a_name() -> None:
    assert parse('The JSON is {"name": "Ada", "age": 36}.').answer == 'The JSON is {"name": "Ada", "age": 36}.'
