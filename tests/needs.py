"""What some tests need of the machine."""

import shutil
import subprocess

import pytest

from foveate import ops


def bubblewrap_works() -> bool:
    """Whether it may make namespaces at all, as it may not in many containers; asked without any code of ours."""
    bwrap = shutil.which("bwrap")
    command = [bwrap or "bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]
    return bwrap is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_bubblewrap = pytest.mark.skipif(not bubblewrap_works(), reason="bubblewrap is not installed, or may do nothing")
needs_native = pytest.mark.skipif(not ops.is_native(), reason=ops.backend())
