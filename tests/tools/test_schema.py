"""Arguments of tools: type hints become a JSON schema, and what a model sends is taken or refused with the reason."""

from typing import Annotated, Any, Literal

import pytest

from foveate.errors import ConfigError, ToolArgumentError
from foveate.tools.schema import checked, checked_arguments, parameters_of, schema_of


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (dict[str, float], {"type": "object"}),
        (Literal["a", "b"], {"enum": ["a", "b"]}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (tuple[float, float], {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
        (Annotated[str, "date"], {"type": "string", "format": "date"}),
    ],
)
def test_schema_of_a_hint(hint: Any, schema: dict[str, Any]) -> None:
    assert schema_of(hint) == schema


def test_a_hint_without_json_is_refused() -> None:
    with pytest.raises(ConfigError, match="set"):
        schema_of(set[int])


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
    assert schema["properties"]["reverse"] == {"type": "boolean", "description": "Last first."}


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
        ("b", Literal["a", "b"], "b"),
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
