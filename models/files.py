"""The JSON files of a checkpoint folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.errors import CheckpointError, ConfigError

Values = Mapping[str, Any]

CODE = ("auto_map", "_attn_implementation_internal")
"""Keys by which a checkpoint asks for code of its own to be run."""
ALWAYS_WITH_CODE = ("kimi_vl",)
"""Families whose files hold such keys as published; they are ignored there."""


def read_values(path: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises CheckpointError when it is missing, is none, or asks for code of its own."""
    values = read_ignoring_code(path)
    for key in CODE:
        if key in values and values.get("model_type") not in ALWAYS_WITH_CODE:
            raise CheckpointError(f"{path} holds the key {key}: code from a checkpoint is never run; remove the key")
    return values


def read_ignoring_code(path: Path) -> dict[str, Any]:
    """As `read_values`, for files of a family whose code is known and not needed."""
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"no checkpoint at {path.parent}: {error.strerror} ({path.name})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, wanted a JSON object")
    return values


def read_optional(path: Path) -> dict[str, Any]:
    """An object from a file beside config.json, whose code is never run either; empty when there is no such file."""
    return read_ignoring_code(path) if path.is_file() else {}


def needed(values: Values, key: str) -> Any:
    """A value that has no default. Raises ConfigError naming the key when it is missing."""
    if key not in values:
        raise ConfigError(f"lacks the key {key}")
    return values[key]
