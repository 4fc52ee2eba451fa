"""The REPL in a real terminal: a question, a follow-up, an interrupt, a kill -9, and the conversation goes on.

tmux is the terminal; the model is a script (tests/repl_scripted.py), all else is what a user runs. What the screen must
show is waited for, never slept for.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

TESTS = Path(__file__).parents[1]
PATIENCE_S = 40.0
AT_THE_PROMPT = r"[^\n]*\n\s*›\n"
"""After a pattern: its line ends and an empty prompt stands below. A control key sent sooner meets the terminal's
cooked mode, which takes Ctrl-D for an end of file that nobody reads."""

pytestmark = pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")


class Terminal:
    """A terminal of its own tmux server."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux")
        self._folder = folder

    def tmux(self, *arguments: str) -> str:
        done = subprocess.run(["tmux", "-S", self._socket, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> int:
        """Run `foveate` with a script as its model in a fresh window; returns its process id."""
        command = ["exec", "env", f"PYTHONPATH={TESTS}", *(f"{k}={v}" for k, v in (env or {}).items())]
        command += [sys.executable, str(TESTS / "repl_scripted.py"), "--data-dir", "data", *arguments]
        self.tmux(
            *("-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "40", "-c", str(self._folder)),
            *("-e", "LC_ALL=C.UTF-8", f"stty sane; {shlex.join(command)}"),
        )
        return int(self.tmux("list-panes", "-F", "#{pane_pid}").split()[-1])

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def line(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def screen(self, *options: str) -> str:
        return self.tmux("capture-pane", "-p", *options)

    def wait(self, pattern: str) -> str:
        """The screen as soon as the pattern is on it."""
        end = time.monotonic() + PATIENCE_S
        while not re.search(pattern, screen := self.screen()):
            assert time.monotonic() < end, f"waited for {pattern!r}, the screen shows:\n{screen}"
            time.sleep(0.03)
        return screen

    def wait_until_closed(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while (
            subprocess.run(["tmux", "-S", self._socket, "has-session"], capture_output=True, check=False).returncode
            == 0
        ):
            assert time.monotonic() < end, self.screen()
            time.sleep(0.03)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    Image.new("RGB", (800, 600), "#99aabb").save(tmp_path / "street.png")
    terminal = Terminal(tmp_path)
    yield terminal
    subprocess.run(["tmux", "-S", str(tmp_path / "tmux"), "kill-server"], capture_output=True, check=False)


def test_a_conversation_survives_an_interrupt_and_a_kill(terminal: Terminal) -> None:
    process = terminal.start()
    terminal.wait("type the path of a picture")
    terminal.line("street.png")
    terminal.wait("added street.png, 800 x 600 px")
    terminal.line("What does the label say?")
    screen = terminal.wait("2 turns · 1 tool call")
    assert "The label is at the upper left." in screen
    assert "240 × 120 px at 80, 60" in screen
    assert re.search(r"✓ K7\b", screen)

    terminal.line("And what did the earlier crop show?")
    terminal.wait("K7, one of 2 images")

    terminal.line("a slow question")
    terminal.wait("on and on")
    terminal.keys("C-c")
    terminal.wait("cancelled by the user")

    terminal.line("another slow question")
    terminal.wait("another slow question\n.*on and on")
    os.kill(process, signal.SIGKILL)
    terminal.wait_until_closed()

    terminal.start("-c")
    screen = terminal.wait("cut off: another slow question")
    assert "going on after 3 questions" in screen
    assert "› What does the label say?" in screen
    terminal.line("What was in the earlier crop?")
    terminal.wait("K7, one of 2 images\n.*1 turn" + AT_THE_PROMPT)
    terminal.keys("C-d")
    terminal.wait_until_closed()


def test_keys_complete_commands_and_write_several_lines_without_colours_and_on_a_tiny_screen(
    terminal: Terminal,
) -> None:
    terminal.start(env={"NO_COLOR": "1"})
    terminal.wait("type the path of a picture")
    terminal.keys("-l", "/he")
    terminal.keys("Tab")
    terminal.wait("› /help")
    terminal.keys("Enter")
    terminal.wait("Ctrl-D leaves")
    terminal.keys("-l", "/image str")
    terminal.keys("Tab")
    terminal.wait("/image street.png")
    terminal.keys("Enter")
    terminal.wait("added street.png")
    terminal.keys("-l", "two lines:")
    terminal.keys("M-Enter")
    terminal.line("what does it say?")
    screen = terminal.wait("2 turns · 1 tool call" + AT_THE_PROMPT)
    assert re.search(r"› two lines:\n +what does it say\?", screen)
    colours = re.findall(r"\x1b\[[\d;]*3[1-7]m|\x1b\[38;", terminal.screen("-e"))
    assert colours == []
    terminal.keys("C-c")
    terminal.wait("Ctrl-D leaves\n.*›")

    terminal.tmux("resize-window", "-x", "30", "-y", "8")
    terminal.line("What was earlier?")
    terminal.wait("K7, one of 2 images")
    terminal.line("/quit")
    terminal.wait_until_closed()
