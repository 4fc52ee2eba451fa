"""A cache grows without losing what it holds, and room that nothing was written to takes no memory."""

from pathlib import Path

import pytest
import torch

from foveate.models.cache import KVCache
from foveate.models.config import NANO, TINY


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_is_held_stays_when_the_cache_grows() -> None:
    cache = KVCache(TINY.decoder, 3, torch.empty(0), capacity=8)
    for x in (cache.k, cache.v):
        x.normal_()
    cache.lengths = [8, 0, 3]
    k, v = cache.k.clone(), cache.v.clone()
    cache.reserve(9)
    assert cache.k.shape[2] == cache.v.shape[2] == 16
    for slot, held in enumerate(cache.lengths):
        assert torch.equal(cache.k[:, slot, :held], k[:, slot, :held])
        assert torch.equal(cache.v[:, slot, :held], v[:, slot, :held])
    assert not cache.k[:, 1].any()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux how much memory is in use")
def test_empty_room_takes_no_memory() -> None:
    cache = KVCache(NANO.decoder, 8, torch.empty(0), capacity=8)
    before = resident_bytes()
    cache.reserve(1 << 16)
    assert cache.k.nbytes > 3 << 29
    assert resident_bytes() - before < 1 << 27
