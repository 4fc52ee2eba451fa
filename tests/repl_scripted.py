"""The command line with a script as its model, for tests that drive a real terminal: the arguments are foveate's."""

import sys
from collections.abc import Sequence

from looking import looks_once
from scripted import ScriptedReasoner

from foveate.cli import main
from foveate.models.reasoner import Message


def looks_long(messages: Sequence[Message]) -> str:
    """The same turns, but a slow one takes as long as a test may need to interrupt it."""
    return looks_once(messages).replace("on and on, ", "on and on, " * 5)


if __name__ == "__main__":
    sys.exit(main(load=lambda *_: ScriptedReasoner(looks_long, seconds_per_token=0.002)))
