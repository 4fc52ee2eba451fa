"""What stands on another device than the processor stays there, on machines without a GPU: see on_other_device.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.cpp_extension import load

HERE = Path(__file__).parent


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("c++") is None, reason="a checkout may be built without a compiler; CI must have one")
def test_what_is_computed_on_another_device_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # where ninja is
    load("other_device", [str(HERE / "other_device.cpp")], build_directory=str(tmp_path), is_python_module=False)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "on_other_device.py")]
    told = {"OTHER_DEVICE": str(tmp_path / "other_device.so")}
    done = subprocess.run(command, env=os.environ | told, cwd=HERE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-10_000:]
