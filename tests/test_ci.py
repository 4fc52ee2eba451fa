"""Continuous integration stops where compiler, sandbox or terminal would be missing, and says so to the tests.

A browser, nvcc and the peers of benchmarks it does without: the tests that drive these are skipped there.

Shell scripts stand in for the programs that .ci/run needs.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from needs import bubblewrap_works

ROOT = Path(__file__).parents[1]


def run(folder: Path, bwrap_status: int) -> subprocess.CompletedProcess[str]:
    """.ci/run of a copy, with a bubblewrap that ends with this status."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    programs = folder / "bin"
    programs.mkdir()
    scripts = {"make": 'echo "make $1 CI=$CI"', "bwrap": f"exit {bwrap_status}", "g++": "", "tmux": "", "nvcc": ""}
    scripts["python3"] = ""  # asked for its headers
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "CI"} | {"PATH": f"{programs}:/usr/bin:/bin"}
    return subprocess.run([folder / ".ci" / "run"], env=env, capture_output=True, text=True, check=False)


def test_each_check_knows_where_it_runs(tmp_path: Path) -> None:
    done = run(tmp_path, 0)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "make lint CI=1\nmake types CI=1\nmake test CI=1\n"


def test_no_check_runs_where_bubblewrap_may_do_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, 1)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(".ci/run: bubblewrap may make no namespaces here")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not os.environ.get("CI"), reason="a machine may lack a compiler, sandbox or terminal; CI must not")
def test_continuous_integration_has_what_the_tests_drive() -> None:
    assert [name for name in ("g++", "make", "tmux") if shutil.which(name) is None] == []
    assert bubblewrap_works()
