"""Formulas are equal by what they mean; one that would take for ever is not, and takes the next one nothing.

Proved with math-verify itself in its process: tables of what is the same and what is not, a product of a hundred
million factors, questions from several threads, one that is interrupted, the process killed in between, a package that
is not there.
"""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest

from foveate.errors import ConfigError
from foveate.rl import formula
from foveate.rl.formula import JUDGE, Judge, is_same_formula
from foveate.rl.reward import is_right

ENDLESS = "100000000!"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (r"\frac{1}{2}", "0.5"),
        (r"$\frac{1}{2}$", "1/2"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        (r"The answer is $\pi/2$", r"\frac{\pi}{2}"),
        (r"\boxed{7}", "7"),
        ("{3, 1, 2}", r"\{1,2,3\}"),
        ("3<x", "x>3"),
        ("y = 1+2x", "y=2x+1"),
        (r"$\infty$", r"\infty"),
        (r"+\infty", r"\infty"),
        (r"\boxed{\infty}", r"\infty"),
        (r"$-\infty$", r"-\infty"),
        ("what is no formula:", "what is no formula:"),
    ],
)
def test_same(answer: str, expected: str) -> None:
    assert is_right(answer, expected, kind="formula")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", "1"),
        ("2", "1"),
        ("(x+1)^3", "(x+1)^2"),
        ("1.41421", r"\sqrt{2}"),
        ("2", "2t"),
        ("3", "3m"),
        ("2x+3", "2x+3t"),
        (r"\frac{1}{3}\pi r^{2}", r"\frac{1}{3}\pi r^{2}h"),
        ("0.0000001", "0.0000004"),
        (r"9.1\cdot 10^{-31}", r"1.6\cdot 10^{-19}"),
        (r"9\%", "9"),
        ("x<3", "x>3"),
        ("[0,1]", "[0,1)"),
        (r"-\infty", r"\infty"),
        ("7", r"\infty"),
        (r"\frac{1}{", r"\frac{1}{2}"),
        ("1" * 3000, "1" * 3000 + "+0"),
        ("__import__('os').system('touch /tmp/here')", "0"),
    ],
)
def test_not_same(answer: str, expected: str) -> None:
    assert not is_right(answer, expected, kind="formula")


def test_what_takes_for_ever_is_ended_and_the_next_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formula, "MOST_S", 1.0)
    judge = Judge()
    assert judge.same("2+2", "4")
    started = time.monotonic()
    assert not judge.same(ENDLESS, "7")
    assert time.monotonic() - started < 3
    monkeypatch.undo()
    assert judge.same("2+2", "4")
    judge.close()


def test_threads_wait_for_each_other() -> None:
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda n: JUDGE.same(f"{n}+{n}", f"{2 * n - n % 2}"), range(40)))
    assert told == [n % 2 == 0 for n in range(40)]


def test_a_process_that_was_killed_is_started_again() -> None:
    judge = Judge()
    assert judge.same("2+2", "4")
    process = judge._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert judge.same("2+2", "4")
    assert judge._process is not process
    judge.close()


def test_what_an_interrupted_question_is_told_later_answers_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(process: "subprocess.Popen[bytes]", line: bytes) -> None:
        assert process.stdin is not None
        process.stdin.write(line)
        raise KeyboardInterrupt

    judge = Judge()
    monkeypatch.setattr(formula, "_ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge.same("2+2", "5")
    monkeypatch.undo()
    assert judge.same("2+2", "4")
    judge.close()


def test_the_same_two_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(JUDGE, "same", lambda *two: bool(asked.append(two)))
    assert [is_same_formula("3+3", "7"), is_same_formula("3+3", "7")] == [False, False]
    assert asked == [("3+3", "7")]


def test_math_verify_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    with pytest.raises(ConfigError, match=r"math-verify, which .* formula need, is not installed: .*foveate\[train\]"):
        Judge().same("2+2", "4")
