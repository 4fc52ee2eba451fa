"""When `make` sets up .venv again: what is asked for, and the sources, against those that it was set up with.

A shell script stands in for Python, pip included; nothing is installed or compiled.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
ROOT = Path(__file__).parents[1]
READY = ".venv/.dev"
PYTHON = """#!/usr/bin/env bash
told="$*"
case "$told" in
  *_base_executable*) realpath "$0" ;;
  *base_prefix*) echo NAME ;;
  --version) echo Python 3.11.0 ;;
  "-m venv"*) [[ $3 != --clear ]] || rm -rf .venv
              mkdir -p .venv/bin
              [[ -e .venv/bin/python ]] || cp "$0" .venv/bin/python
              echo "${told#-m }" ;;
  "-m pip"*) echo "${told#-m }" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the Makefile reads, set up once with an interpreter `one`; there is an interpreter `other` too."""
    for name in ("Makefile", "setup.py", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "csrc" / "cpu").mkdir(parents=True)
    for name in ("kept.cpp", "dropped.cpp"):
        (tmp_path / "csrc" / "cpu" / name).touch()
    for name in ("one", "other"):
        (tmp_path / name).write_text(PYTHON.replace("NAME", name))
        (tmp_path / name).chmod(0o755)
    set_up(tmp_path)
    assert is_ready(tmp_path)
    return tmp_path


def make(checkout: Path, *arguments: str, **asked: str) -> subprocess.CompletedProcess[str]:
    values = [f"{name}={value}" for name, value in ({"PYTHON": str(checkout / "one")} | asked).items()]
    command = ["make", "--no-print-directory", *arguments, READY, *values]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def set_up(checkout: Path, **asked: str) -> str:
    """What make and the interpreter printed."""
    done = make(checkout, **asked)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_ready(checkout: Path, **asked: str) -> bool:
    return make(checkout, "--question", **asked).returncode == 0


@pytest.mark.parametrize("asked", [{"TORCH": "torch==2.12.0"}, {"PIP_ARGS": "--extra-index-url 'https://example.org'"}])
def test_what_is_asked_anew_is_installed_once(checkout: Path, asked: dict[str, str]) -> None:
    assert not is_ready(checkout, **asked)
    (value,) = asked.values()
    said = set_up(checkout, **asked)
    assert value.replace("'", "") in said
    assert "--clear" not in said
    assert is_ready(checkout, **asked)
    assert not is_ready(checkout)


def test_another_interpreter_has_an_environment_of_its_own(checkout: Path) -> None:
    other = {"PYTHON": str(checkout / "other")}
    assert not is_ready(checkout, **other)
    assert "venv --clear .venv\n" in set_up(checkout, **other)
    assert "echo other" in (checkout / ".venv" / "bin" / "python").read_text()
    assert is_ready(checkout, **other)


def test_a_folder_that_was_copied_has_an_environment_of_its_own(checkout: Path, tmp_path: Path) -> None:
    """That of the first would go on being tested."""
    copy = tmp_path / "copy of it"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns("copy of it"))
    assert not is_ready(copy)
    assert "venv --clear .venv\n" in set_up(copy)
    assert is_ready(copy)


def test_a_compiler_that_came_later_compiles(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "bin").mkdir()
    (checkout / "bin" / "nvcc").write_text("#!/bin/sh\n")
    (checkout / "bin" / "nvcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{checkout / 'bin'}:{os.environ['PATH']}")
    assert not is_ready(checkout)
    assert is_ready(checkout) is False
    set_up(checkout)
    assert is_ready(checkout)


def test_a_compiler_that_cuda_home_names_compiles(checkout: Path) -> None:
    nvcc = checkout / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\n")
    assert is_ready(checkout)
    home = {"CUDA_HOME": str(checkout / "cuda")}
    assert not is_ready(checkout, **home)
    set_up(checkout, **home)
    assert is_ready(checkout, **home)


def test_an_environment_whose_interpreter_is_gone_is_made_anew(checkout: Path) -> None:
    (checkout / ".venv" / "bin" / "python").unlink()
    assert not is_ready(checkout)
    assert "venv --clear .venv\n" in set_up(checkout)
    assert is_ready(checkout)


def test_a_question_is_asked_as_it_is_written(checkout: Path) -> None:
    foveate = checkout / ".venv" / "bin" / "foveate"
    foveate.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    foveate.chmod(0o755)
    (checkout / ".venv" / ".run").touch()
    values = ["PICTURE=my photo.png", 'QUESTION=Is "STOP" $5, or `id`?', f"PYTHON={checkout / 'one'}"]
    command = ["make", "--no-print-directory", "demo", *values]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:3] == ["ask", "my photo.png", 'Is "STOP" $5, or `id`?']


def test_a_source_that_is_gone_is_compiled_no_more(checkout: Path) -> None:
    (checkout / "csrc" / "cpu" / "dropped.cpp").unlink()
    assert not is_ready(checkout)
    assert "set-up 1/2" not in set_up(checkout)
    assert is_ready(checkout)
