"""The package's public names: every one is found, is typed as what it is, and is the object of its home."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import foveate

FACE = Path(__file__).parents[2] / "src" / "foveate" / "__init__.py"


def declared() -> dict[str, str]:
    """What the face declares to type checkers: the home of each name."""
    imports = [node for node in ast.walk(ast.parse(FACE.read_text())) if isinstance(node, ast.ImportFrom)]
    return {
        alias.name: str(node.module)
        for node in imports
        for alias in node.names
        if (node.module or "").startswith("foveate.")
    }


def test_every_public_name_is_there_and_no_other() -> None:
    assert sorted(foveate.__all__) == foveate.__all__ == dir(foveate)
    assert {*declared(), "__version__"} == set(foveate.__all__)
    for name, home in declared().items():
        assert getattr(foveate, name) is getattr(import_module(home), name)
    assert foveate.__version__.count(".") >= 1


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(AttributeError, match="it has Agent, Answer, "):
        _ = foveate.Nothing
