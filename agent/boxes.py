"""Boxes in a call's arguments, wherever a tool's schema says that one may be.

A box is a `foveate.tools.tool.Box`, by itself, in lists, tuples and dicts, or beside other forms (`Box | None`).
"""

from collections.abc import Callable, Mapping
from typing import Any


def with_boxes(value: Any, schema: Mapping[str, Any], convert: Callable[[Any], list[float]]) -> Any:
    """An argument with every box in it converted; a value of another form than its schema's is left to the tool.

    Beside other forms only what is a list or a dict may hold one.
    """
    if schema.get("format") == "box":
        return convert(value)
    form = next((one for one in schema.get("anyOf", ()) if holds_box(one)), None)
    if form is not None:
        return with_boxes(value, form, convert) if isinstance(value, list | dict) else value
    if isinstance(value, list) and ("items" in schema or "prefixItems" in schema) and holds_box(schema):
        schemas = schema["prefixItems"] if "prefixItems" in schema else [schema["items"]] * len(value)
        left = value[len(schemas) :]  # more than there may be, which the tool refuses
        return [*(with_boxes(item, one, convert) for item, one in zip(value, schemas, strict=False)), *left]
    if isinstance(value, dict) and "additionalProperties" in schema and holds_box(schema):
        return {key: with_boxes(item, schema["additionalProperties"], convert) for key, item in value.items()}
    return value


def holds_box(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is that of a box, or of what may hold one."""
    inner = schema.get("items", schema.get("additionalProperties"))
    forms = [*schema.get("anyOf", ()), *schema.get("prefixItems", ()), *([inner] if isinstance(inner, Mapping) else [])]
    return schema.get("format") == "box" or any(map(holds_box, forms))
