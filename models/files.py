"""The JSON files of a checkpoint folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from foveate.errors import CheckpointError, ConfigError
from foveate.models.config import typed
from foveate.paths import is_file

ADAPTERS = "adapter_config.json"
T = TypeVar("T")

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
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"no checkpoint at {path.parent}: {error.strerror} ({path.name})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, wanted a JSON object")
    return values


def refuse_adapters(folder: Path) -> None:
    """Raises CheckpointError for a folder that holds adapters and no model."""
    if not is_file(folder / "config.json") and is_file(folder / ADAPTERS):
        base = read_ignoring_code(folder / ADAPTERS).get("base_model_name_or_path", "a model")
        raise CheckpointError(f"{folder} holds adapters of {base}, no model; merge them into it, and give the result")


def read_optional(path: Path) -> dict[str, Any]:
    """An object from a file beside config.json, whose code is never run either; empty when there is no such file."""
    return read_ignoring_code(path) if path.is_file() else {}


@dataclass(frozen=True, kw_only=True)
class Section:
    """An object of a JSON file whose values are read as what they must be.

    What is null is as good as left out. Each error is one line that names the file, the key and what is wanted.
    """

    values: Values = field(default_factory=dict)
    where: str = "config.json"
    """The file, and the keys that lead to the object."""

    def __bool__(self) -> bool:
        return bool(self.values)

    def section(self, key: str) -> "Section":
        """The object at a key, empty when it is left out. Raises CheckpointError when something else is there."""
        values, where = self.values.get(key), f"{self.where}: {key}"
        if not isinstance(values, dict | None):
            raise CheckpointError(f"{where} is {values!r}, wanted an object")
        return Section(values=values or {}, where=where)

    def get(self, key: str, kind: type[T], default: T, least: int = 1) -> T:
        """The value at a key; a whole number is `least` or more. Raises CheckpointError for another."""
        value, where = self.values.get(key), f"{self.where}: {key}"
        if value is None:
            return default
        try:
            read: T = typed(kind, value, where)
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        if isinstance(read, int) and not isinstance(read, bool) and read < least:
            raise CheckpointError(f"{where} is {read}, wanted {least} or more")
        return read

    def need(self, key: str, kind: type[T]) -> T:
        """A value without a default. Raises CheckpointError when it is left out, or as `get` does."""
        if self.values.get(key) is None:
            raise CheckpointError(f"{self.where} lacks the key {key}")
        return self.get(key, kind, self.values[key])

    def only(self, **served: Any) -> None:
        """Raises CheckpointError when a key has another value than the one that is served."""
        for key, wanted in served.items():
            value = self.values.get(key)
            if value not in (None, wanted):
                raise CheckpointError(f"{self.where}: {key} is {value!r}; only {wanted!r} is supported")


def read_section(path: Path) -> Section:
    """The values of a file beside config.json; empty when there is no such file."""
    return Section(values=read_optional(path), where=str(path))


def read_text(path: Path) -> str:
    """A file's text. Raises CheckpointError when it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise CheckpointError(f"{path} is no text: {error}") from error
