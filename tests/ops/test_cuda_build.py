"""What can be known of the CUDA kernels without a GPU: how their work is cut, and that they compile.

Proved: every row of every sequence, expert and span is in one tile; shared memory has no bank conflicts and fits; nvcc
compiles every kernel for each architecture that an install has, without a warning.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_every_block_of_every_grid(tmp_path: Path) -> None:
    program = tmp_path / "tiles"
    flags = ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    source = str(ROOT / "tests/ops/cuda_tiles.cpp")
    subprocess.run(["g++", *flags, f"-I{ROOT / 'csrc/cuda'}", source, "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_kernels_compile_for_every_gpu(tmp_path: Path) -> None:
    library = tmp_path / "_cuda.so"
    command = [sys.executable, "setup.py", "-q", "build_cuda", "--out", str(library)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    needs = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    assert all(f"libtorch_{part}.so" in needs for part in ("cpu", "cuda"))
