"""What a training frees is kept, and given back when it says so; in a process of its own, as it stays so."""

import platform
import subprocess
import sys

import pytest

CHILD = """
import resource, sys
from foveate.rl.heap import give_back, keep_freed

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def held_mb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) >> 10

if sys.argv[1] == "kept":
    keep_freed()
import numpy as np
for _ in range(3):
    before = faults()
    pieces = [np.ones(2**24, dtype=np.uint8) for _ in range(8)]
    last = faults() - before
    del pieces
full = held_mb()
give_back()
print(last, full, held_mb())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    numbers = {}
    for how in ("kept", "as it was"):
        run = subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True, check=True)
        numbers[how] = [int(word) for word in run.stdout.split()]
    faults, full, left = numbers["kept"]
    assert faults < 100 < numbers["as it was"][0]
    assert full - left > 100
