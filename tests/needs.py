"""What some tests need of the machine."""

import shutil

import pytest

from foveate import ops
from foveate.tools.sandbox import SEARCH_PATH

needs_bubblewrap = pytest.mark.skipif(
    shutil.which("bwrap", path=SEARCH_PATH) is None, reason="bubblewrap is not installed"
)
needs_native = pytest.mark.skipif(not ops.is_native(), reason=ops.backend())
