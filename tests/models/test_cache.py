"""A cache grows without losing what it holds, and room that nothing was written to takes no memory.

Such room may be larger than the machine's memory; what no machine has is an error of the model.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.errors import ModelError
from foveate.models.cache import KVCache
from foveate.models.config import NANO, TINY
from foveate.models.generate import ThinkerReasoner
from foveate.models.thinker import Thinker


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
    strict = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    wanted = 1 << 30 if strict else 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cache = KVCache(NANO.decoder, 8, torch.empty(0), capacity=8)
    before = resident_bytes()
    cache.reserve(8 * wanted // cache.k.nbytes + 1)
    cache.k[0, 0, :10] = 1
    assert cache.k.nbytes >= wanted
    assert resident_bytes() - before < 1 << 24


def test_room_that_there_is_not_is_an_error_of_the_model(
    thinker: Thinker, conversation: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasoner = ThinkerReasoner(thinker)
    with monkeypatch.context() as patched:
        patched.setattr(reasoner.engine.cache, "reserve", lambda _: KVCache(NANO.decoder, 1 << 34, torch.empty(0)))
        with pytest.raises(ModelError, match=r"\Afoveate failed .* MemoryError: the system gives no room of"):
            reasoner.sample(conversation, max_new_tokens=2)
    assert reasoner.sample(conversation, max_new_tokens=2) == ThinkerReasoner(thinker).sample(
        conversation, max_new_tokens=2
    )


def test_what_grew_half_way_grows_on_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = KVCache(NANO.decoder, 1, torch.empty(0))
    wanted = 2 * cache.k.shape[2]
    grown = cache._grown

    def no_room_for_values(x_LSCGD: Tensor, capacity: int) -> Tensor:
        if x_LSCGD is cache.v:
            raise MemoryError
        return grown(x_LSCGD, capacity)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "_grown", no_room_for_values)
        with pytest.raises(MemoryError):
            cache.reserve(wanted)
    cache.reserve(wanted)
    assert min(cache.k.shape[2], cache.v.shape[2]) >= wanted
