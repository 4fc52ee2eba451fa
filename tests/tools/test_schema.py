"""Arguments of tools: type hints become a JSON schema, and what a model sends is taken or refused with the reason."""

from enum import StrEnum
from typing import Annotated, Any, Dict, Literal  # noqa: UP035

import pytest

from foveate.errors import ConfigError, ToolArgumentError
from foveate.tools.schema import argument_docs, checked, checked_arguments, parameters_of, schema_of


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (dict, {"type": "object"}),
        (Dict, {"type": "object"}),  # noqa: UP006
        (Annotated[int, {"minimum": 1}], {"type": "integer"}),
        (Annotated[int, {"minimum": 1}, "year"], {"type": "integer", "format": "year"}),
        (list[Annotated[int, {"minimum": 1}]], {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[Annotated[int, {}], Annotated[int, {}]],
            {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
        ),
        (Literal["a", "b"], {"enum": ["a", "b"]}),
        (Literal[1, True, "a", None], {"enum": [1, True, "a", None]}),  # noqa: PYI061
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (tuple[float, float], {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
        (Annotated[str, "date"], {"type": "string", "format": "date"}),
    ],
)
def test_schema_of_a_hint(hint: Any, schema: dict[str, Any]) -> None:
    assert schema_of(hint) == schema


def test_a_hint_without_json_is_refused() -> None:
    for hint, name in ((set[int], "set"), (dict[int, str], "dict"), (list[set[int]], "set")):
        with pytest.raises(ConfigError, match=name):
            schema_of(hint)


class Side(StrEnum):
    LEFT = "left"


@pytest.mark.parametrize("hint", [Literal[Side.LEFT], Literal["left", b"right"], list[Literal["left", Side.LEFT]]])
def test_a_literal_that_json_has_not_is_refused(hint: Any) -> None:
    with pytest.raises(ConfigError, match=r"(Side\.LEFT|b'right').*, which JSON has not"):
        schema_of(hint)


def test_parameters_come_from_hints_and_docstring() -> None:
    def sort(words: list[str], *, reverse: bool = False) -> str:
        """Sort words.

        Args:
            words: What to sort,
                in any order.
            reverse: Last first.
        """
        return " ".join(sorted(words, reverse=reverse))

    schema, _ = parameters_of(sort, skip=0)
    assert schema["required"] == ["words"]
    assert schema["properties"]["words"]["description"] == "What to sort, in any order."
    reverse = {"type": "boolean", "description": "Last first.", "default": False}
    assert schema["properties"]["reverse"] == reverse


@pytest.mark.parametrize("indent", ["  ", "   ", "    ", "\t"])
def test_a_docstring_may_be_indented_by_any_width(indent: str) -> None:
    entries = "{0}words: What to sort,\n{0}{0}in any order.\n{0}last (int): The last.\n"
    docstring = f"Sort.\n\nArgs:\n{entries}\nReturns:\n{{0}}it: x"
    assert argument_docs(docstring.format(indent)) == {"words": "What to sort, in any order.", "last": "The last."}


def test_an_argument_that_cannot_be_given_by_name_is_refused() -> None:
    def positional(value: int, /) -> str:
        return str(value)

    def many(*values: int) -> str:
        return str(values)

    for function, name in ((positional, "'value'"), (many, "'values'")):
        with pytest.raises(ConfigError, match=f"argument {name} of the tool .* to be given by name"):
            parameters_of(function, skip=0)
    assert parameters_of(positional, skip=1)[0]["properties"] == {}


def test_a_hint_that_is_not_there_when_the_program_runs_is_refused() -> None:
    def given(value: "Absent") -> str:  # type: ignore[name-defined]  # noqa: F821
        return str(value)

    def returned(value: int) -> "Absent":  # type: ignore[name-defined]  # noqa: F821
        return value

    for function in (given, returned):
        with pytest.raises(ConfigError, match=f"hints of the tool '{function.__name__}' .*'Absent'.*TYPE_CHECKING"):
            parameters_of(function, skip=0)


def test_an_argument_without_a_hint_is_refused() -> None:
    def untyped(value) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return str(value)

    with pytest.raises(ConfigError, match="'value'"):
        parameters_of(untyped, skip=0)


@pytest.mark.parametrize(
    ("value", "hint", "taken"),
    [
        (3, float, 3.0),
        (3.0, int, 3),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ([[1], []], list[list[int]], [[1], []]),
        (None, int | None, None),
        ({"a": 1}, dict[str, int], {"a": 1}),
        ({"a": 1.0}, dict[str, list[int] | int], {"a": 1}),
        ({"a": [1]}, dict, {"a": [1]}),
        (3.0, Annotated[int, {"minimum": 1}], 3),
        ("b", Literal["a", "b"], "b"),
        (True, Literal[1, True], True),
    ],
)
def test_values_that_fit(value: object, hint: Any, taken: object) -> None:
    found = checked(value, hint, "x")
    assert found == taken
    assert type(found) is type(taken)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("3", int),
        (True, int),
        (True, float),
        (2.5, int),
        (float("nan"), float),
        (float("inf"), float),
        (10**400, float),
        (10**400, int),
        (3, str),
        (None, str),
        ([1], tuple[float, float]),
        ([1, "2"], list[int]),
        ("c", Literal["a", "b"]),
        (True, Literal[1, 2]),
        (1.0, Literal[1, 2]),
        ({"a": "no number"}, dict[str, int]),
        ("3", Annotated[int, {"minimum": 1}]),
        (3, list[Annotated[int, {"minimum": 1}]]),
        ("x", int | None),
        ([1], dict[str, int]),
    ],
)
def test_values_that_do_not_fit(value: object, hint: Any) -> None:
    with pytest.raises(ToolArgumentError, match=r"x.* is .*; give "):
        checked(value, hint, "x")


@pytest.mark.parametrize("arguments", [None, [], "text", {"b": 1}, {}, {"a": 1, "b": 2}])
def test_wrong_names_are_told_with_the_right_ones(arguments: object) -> None:
    def one(a: int) -> str:
        return str(a)

    schema, hints = parameters_of(one, skip=0)
    with pytest.raises(ToolArgumentError, match=r"give .*a"):
        checked_arguments(arguments, schema, hints)
