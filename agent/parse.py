r"""Model text to tool calls or an answer.

One reader for every family's way of writing, because models trained elsewhere keep their habits whatever the system
message says:

    Hermes, DeepEyes, Qwen   <tool_call>{"name": ..., "arguments": {...}}</tool_call>; zoom is also image_zoom_in_tool
                             with bbox_2d and img_idx (from 0)
    Pixel-Reasoner           crop_image_normalized with bbox_2d in 0-1, target_image (from 1); answers in \boxed{}
    Mini-o3                  <grounding>{"bbox_2d": [...], "source": "original_image"}</grounding>, 0-1; a crop is
                             "observation_i" with i from 1
    Thyme, PyVision          <code>...</code>, with or without a Markdown fence; a word in a line of text, without
                             brackets or "=", is text that quotes HTML
    OpenThinkIMG             {"thought": ..., "actions": [{"name": ..., "arguments": {...}}]}

All become `Call(name, arguments)` with the names of our tools; a zoom is ``{"image": idx, "box": [...]}`` with the box
as written (`Call.box_space` says which space the wire format fixes, None leaves it to the dialect).

Thoughts stand in <think>, also in ◁think▷ (Kimi-VL). What Qwen2-VL writes between <|object_ref_start|>, <|box_start|>
and their ends stays in an answer without these.

Rules: calls inside a thought do not count. All calls of a turn count, in order, several in one block too. Text that is
neither call nor answer raises `ParseError`, whose message is written for the model. JSON is read by `json`, line breaks
inside its strings too; a closed block that is not JSON is repaired once, checked and logged, but for one that may hold
several calls; nothing is evaluated and nothing is dropped in silence. Values that a checkpoint
could not hold (NaN, infinity, integers beyond 53 bits, lone surrogates) become strings, which tools then refuse.
"""

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import json_repair

from foveate.agent.messages import Call, clean_text
from foveate.errors import ParseError
from foveate.tools.schema import is_number

MAX_DEPTH = 16
"""Deepest nesting of a call's arguments."""
MAX_REPAIR_CHARS = 20_000
"""Longest malformed JSON that is worth a repair."""

_TAGS = "think|tool_call|grounding|code|answer"
_BLOCK = re.compile(rf"<({_TAGS})>(.*?)(</\1>|\Z)", re.DOTALL)
_STRAY = re.compile(rf"</?(?:{_TAGS})>")
_WORD = re.compile(r"[^\n(=]*\Z")
_NEXT = re.compile(rf"(?:[^\n<]|<(?!/?(?:{_TAGS})>))*")
_THINK = re.compile(r"◁(/?think)▷")
_PLACE = re.compile(r"<\|(?:object_ref|box|quad)_(?:start|end)\|>")
_NAMED_PLACE = re.compile(r"<\|object_ref_end\|>(?=<\|(?:box|quad)_start\|>)")
_FENCE = re.compile(r"\A\s*```[A-Za-z0-9]*[ \t]*\n(.*?)(?:\n```\s*)?\Z", re.DOTALL)
_LEADING_KEY = re.compile(r"""["'](?:name|bbox_2d)["']\s*:""")
_LOOSE_CALL = re.compile(
    r'\{\s*"name"\s*:\s*"[^"\n]*"\s*,\s*"(?:arguments|parameters)"\s*:'
    r"|\[TOOL_CALLS\]|<\|tool_call>|<function=|<\|python_tag\|>"
)
"""A call in no tags, or in those of Mistral, Gemma, Qwen3.5 or Llama, in what is neither call nor answer by ours."""
_OBSERVATION = re.compile(r"\Aobservation_([0-9]{1,6})\Z")
_SAFE_INT = 2**53
OTHER_NAMES = {
    "image_zoom_in_tool": "zoom",
    "crop_image_normalized": "zoom",
    "code_interpreter": "python",
    "web_search": "search",
}
"""What models that were trained with other tools call ours."""
_BOXED = "\\boxed{"

_DECODER = json.JSONDecoder(strict=False)
"""Line breaks inside strings, as models write code, are no reason to guess."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A model's turn: a thought, then calls or an answer, never both and never neither."""

    thought: str
    calls: tuple[Call, ...] = ()
    answer: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Block:
    tag: str
    body: str
    closed: bool


def parse(text: str) -> Parsed:
    """Read one turn. Raises ParseError with what was got and what is wanted, in words for the model."""
    thought, blocks, rest = _split(text)
    if _is_action_list(rest):
        return _action_list(thought, rest)
    calls = tuple(call for block in blocks if block.tag != "answer" for call in _calls(block))
    answer = _answer(blocks, rest)
    if calls and answer is not None:
        raise ParseError("got tool calls and an answer in one turn, wanted one of them: call tools, or answer")
    if calls:
        return Parsed(thought=thought or rest, calls=calls)
    if answer is not None:
        return Parsed(thought=thought or ("" if answer == rest else rest), answer=answer)
    return Parsed(thought=thought, answer=_plain_answer(rest, thought))


def split_thought(text: str) -> str:
    """The thought of a turn, also of one that does not parse: what <think> holds, else the text outside of tags."""
    thought, _, rest = _split(text)
    return thought or rest


def _split(text: str) -> tuple[str, list[_Block], str]:
    """Thought, the other tagged blocks in order, and the text outside of all tags (stripped)."""
    text = _in_our_words(clean_text(text))
    thoughts: list[str] = []
    close, opening = text.find("</think>"), text.find("<think>")
    if close >= 0 and (opening < 0 or close < opening):  # the template has opened the thought
        thoughts.append(text[:close])
        text = text[close + len("</think>") :]
    blocks, rest, end, line = list[_Block](), "", 0, ""
    for m in _BLOCK.finditer(text):
        between, end = text[end : m.start()], m.end()
        after = _NEXT.match(text, end)
        line = (line + between).rpartition("\n")[2]
        if m[1] == "code" and m[3] and _WORD.match(m[2]) and (line.strip() or (after and after[0].strip())):
            rest, line = rest + between + m[2], line + m[2]  # a word that a line of text shows, as HTML does
            continue
        rest, line = rest + between, ""
        blocks.append(_Block(tag=m[1], body=m[2], closed=bool(m[3])))
    thoughts += [block.body for block in blocks if block.tag == "think"]
    thought = "\n".join(stripped for body in thoughts if (stripped := body.strip()))
    return thought, [block for block in blocks if block.tag != "think"], (rest + text[end:]).strip()


def _in_our_words(text: str) -> str:
    """Kimi-VL's tags of thoughts as ours; of what Qwen2-VL names and where it is, the words and the numbers."""
    return _PLACE.sub("", _NAMED_PLACE.sub(" ", _THINK.sub(r"<\1>", text)))


def _answer(blocks: Iterable[_Block], rest: str) -> str | None:
    r"""The last <answer>, else the last \boxed{} outside of tags, else None.

    Raises ParseError when it is empty, or was never closed and runs on into other tags.
    """
    answers = [block for block in blocks if block.tag == "answer"]
    if answers:
        answer = answers[-1].body.strip()
        stray = None if answers[-1].closed else _STRAY.search(answer)
        if stray is not None:
            raise ParseError(f"got a {stray[0]} inside an answer, wanted text between <answer> and </answer>")
        boxed = _boxed(answer)
        if boxed is not None and answer == f"{_BOXED}{boxed}}}":
            answer = boxed.strip()
    else:
        found = _boxed(rest)
        if found is None:
            return None
        answer = found.strip()
    if not answer:
        raise ParseError("got an empty answer, wanted text between <answer> and </answer>")
    return answer


def _plain_answer(rest: str, thought: str) -> str:
    """The text outside of tags as the answer, unless it looks like a call or a broken tag."""
    stray = _STRAY.search(rest)
    if stray is not None:
        raise ParseError(f"got a lone {stray[0]}, wanted <tool_call>...</tool_call> or <answer>...</answer>")
    if _LOOSE_CALL.search(rest):
        raise ParseError("got a call outside of <tool_call> tags, wanted <tool_call>{...}</tool_call>")
    if not rest:
        got = "a thought" if thought else "an empty turn"
        raise ParseError(f"got {got} and nothing after it, wanted <tool_call>...</tool_call> or <answer>...</answer>")
    return rest


def _boxed(text: str) -> str | None:
    r"""Content of the last \boxed{...} with balanced braces, None when there is none."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    begin, depth = start + len(_BOXED), 1
    for idx in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[idx], 0)
        if depth == 0:
            return text[begin:idx]
    return None


def _calls(block: _Block) -> list[Call]:
    if block.tag == "code":
        fence = _FENCE.match(block.body)
        if not block.closed:
            raise ParseError("got <code> without </code>, wanted <code>...</code>")
        return [Call(name="python", arguments={"code": fence[1] if fence else block.body.strip()})]
    return [_grounding(value) if block.tag == "grounding" else _named_call(value) for value in _load(block)]


def _named_call(value: object) -> Call:
    """A ``{"name", "arguments"}`` object as a call with the name and arguments of our tools."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise ParseError(f'got the call {_short(value)}, wanted an object {{"name": "...", "arguments": {{...}}}}')
    written: str = value["name"]
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _only(_objects(arguments))
    if not isinstance(arguments, dict):
        raise ParseError(f"got the arguments {_short(arguments)}, wanted an object with a value for each argument")
    name = OTHER_NAMES.get(written, written)
    if name != "zoom":
        return Call(name=name, arguments=arguments)
    if written == "crop_image_normalized":
        image = _from_one(arguments.get("target_image", 1))
        return Call(name="zoom", arguments={"image": image, "box": arguments.get("bbox_2d")}, box_space="unit")
    if written == "image_zoom_in_tool":
        return Call(name="zoom", arguments={"image": arguments.get("img_idx", 0), "box": arguments.get("bbox_2d")})
    return Call(name="zoom", arguments=arguments)


def _grounding(value: object) -> Call:
    if not isinstance(value, dict) or "bbox_2d" not in value:
        raise ParseError(
            f'got the grounding {_short(value)}, wanted {{"bbox_2d": [x0, y0, x1, y1], "source": "original_image"}}'
        )
    source = value.get("source", "original_image")
    observation = _OBSERVATION.match(source) if isinstance(source, str) else None
    if source != "original_image" and observation is None:
        raise ParseError(
            f'got the source {_short(source)}, wanted "original_image" or "observation_i" with a number i from 1'
        )
    return Call(
        name="zoom",
        arguments={"image": 0, "box": value["bbox_2d"]},
        box_space="unit",
        observation=int(observation[1]) if observation else None,
    )


def _is_action_list(rest: str) -> bool:
    return rest.startswith("{") and '"actions"' in rest


def _action_list(thought: str, rest: str) -> Parsed:
    """The one-object form: every action is a call, an action named Terminate is the answer."""
    value = _only(_load(_Block(tag="actions", body=rest, closed=True)))
    actions = value.get("actions") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(actions, list) or not actions:
        raise ParseError(f'got {_short(value)}, wanted an object with a list "actions" of calls')
    thought = thought or str(value.get("thought") or "").strip()
    calls = tuple(_named_call(action) for action in actions)
    if [call.name for call in calls] == ["Terminate"]:
        answer = str(calls[0].arguments.get("ans", "")).strip()
        if not answer:
            raise ParseError(
                'got Terminate without an answer, wanted {"name": "Terminate", "arguments": {"ans": "..."}}'
            )
        return Parsed(thought=thought, answer=answer)
    if any(call.name == "Terminate" for call in calls):
        raise ParseError("got Terminate beside other actions, wanted one of them: call tools, or answer")
    return Parsed(thought=thought, calls=calls)


def _load(block: _Block) -> list[object]:
    """The JSON objects of a block, one at least; a closed one that is malformed is repaired and logged.

    Raises ParseError. A repair makes one object of several, so what may be several is not repaired.
    """
    try:
        return _objects(block.body)
    except ParseError as error:
        if not block.closed:
            raise ParseError(
                f"got <{block.tag}> without </{block.tag}>, wanted a complete <{block.tag}>...</{block.tag}>"
            ) from error
        if len(block.body) > MAX_REPAIR_CHARS or len(_LEADING_KEY.findall(block.body)) > 1:
            raise
        repaired = _guarded(
            lambda: _plain(json_repair.repair_json(block.body, return_objects=True, skip_json_loads=True), depth=0),
            block.body,
        )
        if not isinstance(repaired, dict) or not repaired:
            raise
        _log.info("repaired malformed JSON in <%s>: %.200r", block.tag, block.body)
        return [repaired]


def _objects(body: str) -> list[object]:
    """The values of JSON that stand in a text one after the other, one at least. Raises ParseError."""
    values: list[object] = _guarded(lambda: [_plain(value, depth=0) for value in _decoded(body)], body)
    return values


def _decoded(body: str) -> Iterator[object]:
    left = body.strip()
    while True:
        value, end = _DECODER.raw_decode(left)
        yield value
        left = left[end:].lstrip()
        if not left:
            return


def _only(values: Sequence[object]) -> object:
    """The one that there is; several are a list, which nobody takes for an object."""
    return values[0] if len(values) == 1 else list(values)


def _guarded(load: Callable[[], Any], body: str) -> Any:
    """What `load` returns; ParseError for whatever is wrong with `body`."""
    try:
        return load()
    except (ValueError, RecursionError) as error:
        raise ParseError(
            f"got malformed JSON {_short(body.strip())} ({str(error)[:80]}), wanted one JSON object"
        ) from error


def _plain(value: object, *, depth: int) -> object:
    """The value with what JSON or a checkpoint cannot hold turned into strings. ValueError beyond MAX_DEPTH."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        return {clean_text(str(key)): _plain(inner, depth=depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, depth=depth + 1) for inner in value]
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) > _SAFE_INT:
        return str(value)
    return value


def _from_one(number: object) -> object:
    """An index from 0 for one from 1; what is no number stays for the tool to refuse."""
    if is_number(number):
        if number < 1:
            raise ParseError(f"got target_image {number}, wanted a number from 1")
        return number - 1
    return number


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
