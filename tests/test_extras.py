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


def test_what_is_there_but_cannot_be_imported_says_why_and_how_to_renew_it() -> None:
    said = r"^peft cannot be imported \(cannot import name .+\): pip install --upgrade 'foveate\[train\]'$"
    with pytest.raises(ConfigError, match=said), from_extra("train", "peft"):
        from json import no_such_thing  # noqa: F401


def test_what_is_there_is_imported() -> None:
    with from_extra("train", "json"):
        import json
    assert json.loads("1") == 1


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), from_extra("train", "matplotlib"):
        1 / 0  # noqa: B018
