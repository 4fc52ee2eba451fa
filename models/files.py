"""The JSON files of a checkpoint folder."""

import json
from pathlib import Path
from typing import Any

from foveate.errors import CheckpointError

CODE = ("auto_map", "_attn_implementation_internal")
"""Keys by which a checkpoint asks for code of its own to be run."""


def read_values(path: Path) -> dict[str, Any]:
    """An object from a JSON file. Raises CheckpointError when it is missing, is none, or asks for code of its own."""
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"no checkpoint at {path.parent}: {error.strerror} ({path.name})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, wanted a JSON object")
    for key in CODE:
        if key in values:
            raise CheckpointError(f"{path} holds the key {key}: code from a checkpoint is never run; remove the key")
    return values


def read_optional(path: Path) -> dict[str, Any]:
    """As `read_values`; empty when there is no such file."""
    return read_values(path) if path.is_file() else {}
