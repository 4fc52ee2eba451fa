"""Imports point one way, are absolute, and never take a top-level folder by its bare name.

csrc -> foveate.ops, errors, extras, paths, pictures <- tools, models <- agent <- rl <- benchmarks, with the command
line on top. tools and models never import each other; only foveate.ops loads the extension. Read from the source by
AST, so a file that cannot be imported here is held to it too. The command line imports lazily: `foveate --help` loads
no torch.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = frozenset({"errors", "extras", "ops", "paths", "pictures"})
MAY_IMPORT = {
    "_C": frozenset[str](),
    "errors": frozenset[str](),
    "extras": frozenset({"errors"}),
    "paths": frozenset[str](),
    "pictures": frozenset({"errors", "paths"}),
    "ops": frozenset({"_C", "errors"}),
    "tools": BASE,
    "models": BASE,
    "agent": BASE | {"models", "tools"},
    "rl": BASE | {"agent", "models", "tools"},
    "benchmarks": BASE | {"agent", "models", "rl", "tools"},
}
COME_ALONG = {"latex2sympy2_extended", "openai", "psycopg_pool", "pyarrow"}
"""Packages that those of extras need themselves: math-verify, langchain-openai, psycopg[pool], datasets."""
FOLDERS = ("agent", "benchmarks", "models", "rl", "tools")


def sources() -> list[Path]:
    roots = [ROOT / "src" / "foveate", *(ROOT / folder for folder in FOLDERS)]
    return sorted(path for root in roots for path in root.rglob("*.py"))


def layer(path: Path) -> str:
    """The layer that a file belongs to: a folder's name, or the module's name in src/foveate."""
    parts = path.relative_to(ROOT).parts
    if parts[0] in FOLDERS:
        return parts[0]
    return Path(parts[2]).stem


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports, relative imports with their dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + f"{node.module or ''}.{alias.name}"


def faults(source: str, of_layer: str) -> list[str]:
    """What breaks the rules in the source of a module of this layer; the face and the command line may import all."""
    out = []
    for line, name in imported(ast.parse(source)):
        head, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if name.startswith("."):
            out.append(f"{line}: relative import {name}")
        elif head in FOLDERS:
            out.append(f"{line}: bare import {name}; say foveate.{name}")
        elif head == "foveate" and of_layer in MAY_IMPORT and target not in {*MAY_IMPORT[of_layer], of_layer}:
            out.append(f"{line}: {of_layer} may not import {name}")
    return out


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8"), layer(path)) == []


@pytest.mark.parametrize(
    ("source", "of_layer"),
    [
        ("from foveate.models.thinker import Thinker", "tools"),
        ("import foveate.tools.zoom", "models"),
        ("from foveate import rl", "agent"),
        ("from foveate import Agent", "rl"),
        ("def late():\n    from foveate.cli import main", "rl"),
        ("from .zoom import zoom", "tools"),
        ("from . import zoom", "tools"),
        ("from foveate import _C", "models"),
        ("import agent", "cli"),
        ("from models.thinker import Thinker", "rl"),
    ],
)
def test_a_wrong_import_is_found(source: str, of_layer: str) -> None:
    assert len(faults(source, of_layer)) == 1


@pytest.mark.parametrize("module", ["foveate", "foveate.cli"])
def test_heavy_modules_load_lazily(module: str) -> None:
    heavy = ["torch", "langgraph", "jupyter_client", "transformers"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def third_party(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of each package that a module imports, ours and Python's own left out."""
    for line, dotted in imported(tree):
        name = dotted.partition(".")[0]
        if name and name not in sys.stdlib_module_names and name != "foveate":
            yield line, name


def test_what_is_imported_is_installed_with_the_package_or_an_extra() -> None:
    """Pip installs what pyproject.toml names and no more; `make check-wheel` does so in an empty environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [some for name, some in project["optional-dependencies"].items() if name != "dev"]
    declared = {plain_name(re.split(r"[^\w.-]", one)[0]) for one in chain(project["dependencies"], *extras)}
    distributions = packages_distributions()
    missing = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sources()
        if layer(path) != "benchmarks"
        for line, name in third_party(ast.parse(path.read_text()))
        if name not in COME_ALONG and declared.isdisjoint(map(plain_name, distributions.get(name, [name])))
    ]
    assert missing == []


def plain_name(distribution: str) -> str:
    """As pip compares names."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
