"""Boxes in a call's arguments, wherever a tool's schema says that one may be.

A box is a `foveate.tools.tool.Box`, by itself, in lists, tuples and dicts, or beside other forms (`Box | None`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from foveate.errors import ToolArgumentError
from foveate.tools.schema import is_number


def with_boxes(value: Any, schema: Mapping[str, Any], convert: Callable[[Any], list[float]]) -> Any:
    """An argument with every box in it converted; a value of another form than its schema's is left to the tool.

    Beside other forms only what is a list or a dict may hold one.
    """
    if schema.get("format") == "box":
        return convert(value)
    if "anyOf" in schema and holds_box(schema):
        return _as_one_of(value, schema["anyOf"], convert) if isinstance(value, list | dict) else value
    if isinstance(value, list) and ("items" in schema or "prefixItems" in schema) and holds_box(schema):
        schemas = schema["prefixItems"] if "prefixItems" in schema else [schema["items"]] * len(value)
        left = value[len(schemas) :]  # more than there may be, which the tool refuses
        return [*(with_boxes(item, one, convert) for item, one in zip(value, schemas, strict=False)), *left]
    if isinstance(value, dict) and "additionalProperties" in schema and holds_box(schema):
        return {key: with_boxes(item, schema["additionalProperties"], convert) for key, item in value.items()}
    return value


def _as_one_of(
    value: list[Any] | dict[str, Any], forms: Sequence[Mapping[str, Any]], convert: Callable[[Any], list[float]]
) -> Any:
    """By the first form whose boxes can all be converted; a form without boxes leaves the value to the tool.

    Where there is none the error is that of the form which the value comes nearest.
    """
    kind = "array" if isinstance(value, list) else "object"
    fitting = [one for one in forms if "anyOf" in one or one.get("type") == kind]
    for form in filter(holds_box, fitting):
        with suppress(ToolArgumentError):
            return with_boxes(value, form, convert)
    is_wrong_box = _is_box(value) and any(one.get("format") == "box" for one in fitting)
    if not all(map(holds_box, fitting)) and not is_wrong_box:
        return value
    return with_boxes(value, _nearest(value, [one for one in forms if holds_box(one)]), convert)


def _is_box(value: list[Any] | dict[str, Any]) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _nearest(value: list[Any] | dict[str, Any], forms: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of several forms that may hold a box the one that a value is most like; else a box, or the first."""
    is_box = _is_box(value)
    inside = ("additionalProperties",) if isinstance(value, dict) else ("items", "prefixItems")
    fits = [one for one in forms if (one.get("format") == "box") == is_box and (is_box or any(map(one.get, inside)))]
    return next(iter([*fits, *(one for one in forms if one.get("format") == "box"), *forms]))


def holds_box(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is that of a box, or of what may hold one."""
    inner = schema.get("items", schema.get("additionalProperties"))
    forms = [*schema.get("anyOf", ()), *schema.get("prefixItems", ()), *([inner] if isinstance(inner, Mapping) else [])]
    return schema.get("format") == "box" or any(map(holds_box, forms))
