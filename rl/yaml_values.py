"""YAML as a settings file is meant: keys are texts, and 1e-4 is a number, as in YAML 1.2 (PyYAML reads 1.1)."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from foveate.errors import ConfigError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
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
