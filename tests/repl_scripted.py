"""The command line with a script as its model, for tests that drive a real terminal: the arguments are foveate's."""

import sys

from looking import looks_once
from scripted import ScriptedReasoner

from foveate.cli import main

if __name__ == "__main__":
    sys.exit(main(load=lambda _: ScriptedReasoner(looks_once, seconds_per_token=0.01)))
