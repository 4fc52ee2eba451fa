"""Arguments of a tool: from Python type hints to a JSON schema, and from a model's JSON back to checked values.

One table of rules serves both ways, so that what the model is told and what is accepted cannot differ. Understood are
str, bool, int, float, Literal, list[T], tuple[T, ...fixed], dict[str, T], T | None and Annotated[T, "format"], whose
other metadata is not read. Nothing is guessed: "3" is not a number, true is not an integer, and NaN or infinity is
never a value.
"""

import inspect
import math
import re
import textwrap
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, TypeGuard, Union, get_args, get_origin, get_type_hints

from foveate.errors import ConfigError, ToolArgumentError, shown

Schema = dict[str, Any]
Hint: TypeAlias = Any
"""A type hint as `typing.get_type_hints` gives it."""
SCALARS: dict[Hint, str] = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
WORDS: dict[Hint, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    type(None): "null",
}


def origin_of(hint: Hint) -> Hint:
    """`typing.get_origin`, for hints of any kind."""
    return get_origin(hint)


def schema_of(hint: Hint) -> Schema:
    """JSON schema of a type hint; ConfigError for a hint that has none."""
    origin, parts = origin_of(hint), get_args(hint)
    if hint is Any:
        return {}
    if origin is None and hint in SCALARS:
        return {"type": SCALARS[hint]}
    if origin is Annotated:
        texts = [text for text in parts[1:] if isinstance(text, str)]
        return schema_of(parts[0]) | ({"format": texts[0]} if texts else {})
    if origin is Literal:
        if odd := [part for part in parts if type(part) not in (str, int, bool, type(None))]:
            raise ConfigError(f"a tool's argument may be {odd[0]!r}, which JSON has not; use text, int, bool or None")
        return {"enum": list(parts)}
    if origin is list or hint is list:
        return {"type": "array", "items": schema_of(parts[0]) if parts else {}}
    if origin is tuple and Ellipsis not in parts:
        same = bool(parts) and all(part == parts[0] for part in parts)
        items = {"items": schema_of(parts[0])} if same else {"prefixItems": [schema_of(part) for part in parts]}
        return {"type": "array", **items, "minItems": len(parts), "maxItems": len(parts)}
    if hint is dict or (origin is dict and (not parts or parts[0] in (str, Any))):
        return {"type": "object"} | ({"additionalProperties": schema_of(parts[1])} if parts else {})
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(part) for part in parts]}
    raise ConfigError(
        f"a tool's argument has the type {hint}; use str, bool, int, float, Literal, list, tuple or dict[str, T]"
    )


def parameters_of(function: Callable[..., Any], *, skip: int) -> tuple[Schema, dict[str, Any]]:
    """JSON schema of a function's arguments and their type hints, without the first `skip` parameters.

    Raises ConfigError for a function that cannot be called with named arguments of these hints.
    """
    hints = hints_of(function)
    about = argument_docs(inspect.getdoc(function) or "")
    properties: dict[str, Schema] = {}
    required = []
    for name, parameter in list(inspect.signature(function).parameters.items())[skip:]:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) or name not in hints:
            raise ConfigError(
                f"argument {name!r} of the tool {function.__name__!r} needs a type hint and to be given by name; "
                "write it as name: type, without *, ** and /"
            )
        properties[name] = schema_of(hints[name]) | ({"description": about[name]} if name in about else {})
        if parameter.default is parameter.empty:
            required.append(name)
        elif isinstance(parameter.default, bool | int | float | str):
            properties[name]["default"] = parameter.default
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return schema, {name: hints[name] for name in properties}


def hints_of(function: Callable[..., Any]) -> dict[str, Hint]:
    """The type hints of a function, its result's too; ConfigError for those that name nothing that is there."""
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise ConfigError(
            f"the type hints of the tool {function.__name__!r} cannot be read ({error}); "
            "import what they name, and not only under TYPE_CHECKING"
        ) from error


def argument_docs(docstring: str) -> dict[str, str]:
    """What the "Args:" section of a docstring, indented by any width, says about each argument."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)*)", docstring, re.MULTILINE)
    text = textwrap.dedent(section[1]) if section else ""
    entries = re.findall(r"^(\w+)(?: \([^)]*\))?: (.+(?:\n[ \t]+.+)*)", text, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def checked_arguments(arguments: object, schema: Schema, hints: dict[str, Any]) -> dict[str, Any]:
    """The arguments as Python values; ToolArgumentError says what was given and what is wanted."""
    if not isinstance(arguments, dict):
        raise ToolArgumentError(
            f"arguments are {shown(arguments)}; give an object with {', '.join(hints) or 'no keys'}"
        )
    unknown = [str(name) for name in arguments if name not in hints]
    missing = [name for name in schema["required"] if name not in arguments]
    if unknown or missing:
        trouble = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"missing {', '.join(missing)}"] * bool(missing)
        raise ToolArgumentError(f"arguments: {'; '.join(trouble)}; give {', '.join(hints) or 'none'}")
    return {name: checked(value, hints[name], name) for name, value in arguments.items()}


def checked(value: object, hint: Hint, name: str) -> object:
    """One value converted to its hint, or ToolArgumentError that names it."""
    origin, parts = origin_of(hint), get_args(hint)
    if origin is Annotated:
        return checked(value, parts[0], name)
    if origin in (Union, types.UnionType):
        return checked_union(value, parts, name)
    if origin is list and parts and isinstance(value, list):
        return [checked(item, parts[0], f"{name}[{idx}]") for idx, item in enumerate(value)]
    if origin is dict and parts and isinstance(value, dict):
        return {key: checked(item, parts[1], f"{name}[{shown(key)}]") for key, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise ToolArgumentError(f"{name} is {shown(value)}; give a list of {len(parts)} values")
        return tuple(
            checked(item, part, f"{name}[{i}]") for i, (item, part) in enumerate(zip(value, parts, strict=True))
        )
    if hint in (int, float) and is_number(value) and (hint is float or float(value).is_integer()):
        return hint(value)
    if fits(value, hint, origin, parts):
        return value
    raise ToolArgumentError(f"{name} is {shown(value)}; give {wanted(hint)}")


def checked_union(value: object, parts: tuple[Any, ...], name: str) -> object:
    """The value as the first alternative that takes it."""
    for part in parts:
        try:
            return checked(value, part, name)
        except ToolArgumentError:
            continue
    raise ToolArgumentError(f"{name} is {shown(value)}; give {' or '.join(wanted(part) for part in parts)}")


def fits(value: object, hint: Hint, origin: Hint, parts: tuple[Hint, ...]) -> bool:
    """Whether a value is of a hint as it is; numbers are converted and judged in `checked`."""
    if hint is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    return hint not in (int, float) and isinstance(value, origin or hint)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number that fits a float; true and false are not numbers."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def wanted(hint: Hint) -> str:
    """A hint in words."""
    if origin_of(hint) is Literal:
        return "one of " + ", ".join(repr(part) for part in get_args(hint))
    if origin_of(hint) is Annotated:
        return wanted(get_args(hint)[0])
    return WORDS.get(origin_of(hint) or hint) or str(hint)
