"""Whether two formulas are equal, by math-verify in a process of its own that is ended when it takes too long.

math-verify (0.9) ends what takes too long by signals. Only a main thread gets them, and one product of large whole
numbers, as in "100000000!", waits for none; a process ends whatever it does. It has its memory limited, too.

    python -m foveate.rl.formula    reads [answer, expected] in JSON, a line each, and writes true or false
"""

import atexit
import importlib.metadata
import json
import logging
import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from select import select
from threading import Lock
from typing import Any

from foveate.errors import ConfigError
from foveate.extras import from_extra

MOST_S = 5.0
"""What a comparison may take; one that takes longer says that two formulas are not equal."""
START_S = 60.0
"""What the process may take to load sympy."""
MEMORY_BYTES = 2 << 30
LONGEST = 2000
"""Characters of a formula."""
READY = b"ready\n"
_DELIMITERS = re.compile(r"\$|\\\(|\\\[|\\boxed")


class Judge:
    """A process that compares formulas one after the other: started at the first, and anew after one that ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = Lock()

    def same(self, answer: str, expected: str) -> bool:
        """Whether two formulas are equal; not when that takes longer than MOST_S, or ends two processes.

        Raises ConfigError when math-verify is not installed, or does not start.
        """
        if max(len(answer), len(expected)) > LONGEST:
            return False
        with self._lock:
            line = json.dumps([answer, expected]).encode() + b"\n"
            try:
                told = _ask(self._running(), line)
                if told == b"":  # it ended, as when memory is short: that says nothing of the formulas
                    self._end()
                    told = _ask(self._running(), line)
            except BaseException:  # what it says later would be taken for the answer to the next question
                self._end()
                raise
            if not told:
                self._end()
            return told == b"true\n"

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._owner != os.getpid():  # a fork's parent goes on with its own
            require_math_verify()
            command = [sys.executable, "-m", "foveate.rl.formula"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            self._owner = os.getpid()
            if _answer(self._process, START_S) != READY:
                self._end()
                raise ConfigError(f"`{' '.join(command)}` did not start; what it wrote is above")
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()


JUDGE = Judge()
"""The one of this process."""
atexit.register(JUDGE.close)


@lru_cache(maxsize=4096)
def is_same_formula(answer: str, expected: str) -> bool:
    """Whether two formulas are equal: letter by letter, or by math-verify. Raises ConfigError without math-verify."""
    return answer.strip() == expected.strip() or JUDGE.same(answer, expected)


def require_math_verify() -> None:
    """Raises ConfigError when math-verify is not installed."""
    with from_extra("train", "math-verify, which answers of the type formula need,"):
        importlib.metadata.distribution("math-verify")


def _ask(process: "subprocess.Popen[bytes]", line: bytes) -> bytes | None:
    """The line that comes back; b"" when the process has ended, None when it takes too long."""
    assert process.stdin is not None
    try:
        process.stdin.write(line)
    except BrokenPipeError:
        return b""
    return _answer(process, MOST_S)


def _answer(process: "subprocess.Popen[bytes]", seconds: float) -> bytes | None:
    assert process.stdout is not None
    readable, _, _ = select([process.stdout], [], [], seconds)
    return process.stdout.read(len(b"false\n")) if readable else None


def serve() -> None:
    """What the process does: compare what comes in, until nothing does."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable()
    # Units stay: else the t of "2t" and the m of "3m" are some, and left out.
    kept = NormalizationConfig(units=False, malformed_operators=True, nits=True)
    formula = (LatexExtractionConfig(normalization_config=kept),)  # math-verify's other one takes texts as Python

    def equal(answer: str, expected: str) -> bool:
        found, wanted = (parse(_delimited(text), formula, parsing_timeout=None) for text in (answer, expected))
        alike = answer.count("%") == expected.count("%") and _is_near(found, wanted)
        return alike and bool(verify(wanted, found, timeout_seconds=None))

    out, sys.stdout = sys.stdout.buffer, sys.stderr
    out.write(READY)
    out.flush()
    for line in sys.stdin:
        out.write(json.dumps(equal(*json.loads(line))).encode() + b"\n")
        out.flush()


def _is_near(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """False for numbers that differ by more than a millionth of themselves: math-verify rounds to so many places."""
    numbers = ([value.doit() for value in values if getattr(value, "is_number", False)] for values in (found, wanted))
    both = [some[0].evalf(30) for some in numbers if some]
    if len(both) < 2:
        return True
    one, other = both
    if one == other or not (one.is_finite and other.is_finite):
        return bool(one == other)
    return bool(abs(one - other) <= 1e-6 * max(abs(one), abs(other)))


def _delimited(text: str) -> str:
    return text if _DELIMITERS.search(text) else f"${text}$"


if __name__ == "__main__":
    serve()
