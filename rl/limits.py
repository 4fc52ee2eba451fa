"""Numbers that make no sense in a configuration: refused with the key, the value and what is wanted.

Each configuration calls `check` when it is made, so a file, an override and a caller of the library are told the same.
"""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

from foveate.errors import ConfigError


class Limit(NamedTuple):
    """What a number has to be."""

    wanted: str
    holds: Callable[[Any], bool]


ABOVE_ZERO = Limit("a number above 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Limit("0 or more", lambda value: 0 <= value < math.inf)
SHARE = Limit("a share from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_ONE = Limit("a share from 0 to below 1", lambda value: 0 <= value < 1)
BELOW_HALF = Limit("a share from 0 to below 0.5", lambda value: 0 <= value < 0.5)
DECAYS = Limit("two shares from 0 to below 1", lambda pair: all(0 <= value < 1 for value in pair))
AROUND_ONE = Limit("a ratio from 0 to 1 and one from 1 on", lambda pair: 0 <= pair[0] <= 1 <= pair[1] < math.inf)


def check_read(config: Any, prefix: str, name: str, **reader: object) -> None:
    """Raises ConfigError for a field that is set where another one has not the value with which it is read."""
    ((key, wanted),) = reader.items()
    value, found = getattr(config, name), getattr(config, key)
    usual = next(field.default for field in fields(config) if field.name == name)
    if value != usual and found != wanted:
        raise ConfigError(
            f"{prefix}{name} is {value!r}, which is read where {prefix}{key} is {wanted!r}, and it is {found!r}; "
            "set that, or leave it out"
        )


def at_least(least: int) -> Limit:
    """A number that may be that small and no smaller."""
    return Limit(f"at least {least}", lambda value: least <= value < math.inf)


def check(config: object, prefix: str = "", **limits: Limit) -> None:
    """Raises ConfigError for the first field that is beyond its limit; `prefix` goes before its name."""
    for name, limit in limits.items():
        value = getattr(config, name)
        if not limit.holds(value):
            raise ConfigError(f"{prefix}{name} is {value!r}, wanted {limit.wanted}")
