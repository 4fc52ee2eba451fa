"""Packages that an extra brings."""

import pytest

from foveate.errors import ConfigError
from foveate.extras import from_extra


def test_what_is_missing_says_how_to_install_it() -> None:
    with (
        pytest.raises(ConfigError, match=r"^matplotlib is not installed: pip install 'foveate\[train\]'$"),
        from_extra("train", "matplotlib"),
    ):
        import no_such_package  # noqa: F401


def test_what_is_there_is_imported() -> None:
    with from_extra("train", "json"):
        import json
    assert json.loads("1") == 1


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), from_extra("train", "matplotlib"):
        1 / 0  # noqa: B018
