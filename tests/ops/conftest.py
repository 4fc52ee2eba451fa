"""What tests of operations share: each instruction set in turn, and torch's number of threads."""

from collections.abc import Iterator

import pytest
import torch

from foveate import ops


def instruction_sets() -> list[str]:
    """Those that the kernels have a unit for and this processor can run."""
    wide = ("avx512f", "avx512bw", "avx512dq", "avx512vl")
    pairs = (*wide, "avx512bf16")
    wanted = {"generic": (), "avx2": ("avx2", "fma"), "avx512": wide, "avx512bf16": pairs, "emulated_amx": ()}
    wanted["amx"] = (*pairs, "amx_tile", "amx_bf16")
    if not ops.is_native():
        return []
    from foveate import _C

    here = _C.cpu_features()
    return [name for name, features in wanted.items() if all(map(here.get, features))]


@pytest.fixture(params=instruction_sets() or ["plain"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn, where the extension is there."""
    if not ops.is_native():
        yield request.param
        return
    from foveate import _C

    before = _C.use_isa(request.param)
    yield request.param
    _C.use_isa(before)


@pytest.fixture
def threads() -> Iterator[None]:
    """Give torch its number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def isas() -> list[str]:
    """The names of all instruction sets that can be forced here."""
    return instruction_sets()
