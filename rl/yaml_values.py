"""Settings files, whose YAML is read as it is meant: keys are texts, and 1e-4 is a number (as in YAML 1.2, not 1.1)."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from foveate.errors import ConfigError
from foveate.paths import is_file


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"{key.value} stands twice, in line {lines[key.value]} and in line {line}")
            lines[key.value] = line
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def yaml_value(text: str, where: str) -> Any:
    """What a text says. Raises ConfigError, in one line that begins with `where`, when it is no YAML."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError) as error:  # the latter for a date that is none
        raise ConfigError(f"{where} is no YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """A YAML mapping, with `key.sub=value` overrides applied.

    Raises ConfigError when the file is missing, cannot be read or is no mapping, or an override has no "=" or a value
    that is no YAML.
    """
    if not is_file(path):
        raise ConfigError(f"no configuration file {path}; those of a checkout are in configs/")
    try:
        values = yaml_value(path.read_text(), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}, wanted a mapping of keys to values")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"override {override!r} has no '='; write key=value")
        *parents, leaf = key.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"override {override!r}: {parent} holds {target!r}, wanted a mapping")
        target[leaf] = yaml_value(text, f"override {override!r}: its value")
    return values
