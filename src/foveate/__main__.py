"""``python -m foveate``: the command line."""

import sys

from foveate.cli import main

sys.exit(main())
