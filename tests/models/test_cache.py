"""A cache grows without losing what it holds, and room that nothing was written to takes no memory.

Such room may be larger than the machine's memory; what no machine has is an error of the model.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.errors import ModelError
from foveate.models import engine
from foveate.models.cache import KVCache
from foveate.models.config import NANO, TINY
from foveate.models.generate import ThinkerReasoner
from foveate.models.reasoner import Sample
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
        patched.setattr(reasoner.engine.cache, "reserve", lambda *_: KVCache(NANO.decoder, 1 << 34, torch.empty(0)))
        with pytest.raises(ModelError, match=r"\Afoveate failed .* MemoryError: the system gives no room of"):
            reasoner.sample(conversation, max_new_tokens=2)
    assert reasoner.sample(conversation, max_new_tokens=2) == ThinkerReasoner(thinker).sample(
        conversation, max_new_tokens=2
    )


def test_what_grew_half_way_grows_on_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = KVCache(NANO.decoder, 1, torch.empty(0))
    wanted = 2 * cache.k.shape[2]
    grown = cache._grown

    def no_room_for_values(x_LSCGD: Tensor, slots: int, capacity: int) -> Tensor:
        if x_LSCGD is cache.v:
            raise MemoryError
        return grown(x_LSCGD, slots, capacity)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "_grown", no_room_for_values)
        with pytest.raises(MemoryError):
            cache.reserve(wanted)
    cache.reserve(wanted)
    assert min(cache.k.shape[2], cache.v.shape[2]) >= wanted


def test_slots_come_as_they_are_used_where_empty_room_costs() -> None:
    cache = KVCache(TINY.decoder, 6, torch.empty(0, device="meta"), capacity=8)
    assert cache.num_slots == 1
    for slot, wanted in ((0, 1), (1, 2), (3, 4), (2, 4), (5, 6)):
        cache.copy_prefix(0, slot, 0)
        assert (cache.num_slots, cache.k.shape[2]) == (wanted, 8)
    for tokens, wanted in ((9, 512), (512, 512), (513, 1024)):  # not twice as much: each slot takes it
        cache.reserve(tokens)
        assert cache.k.shape[1:3] == cache.v.shape[1:3] == (6, wanted)


def test_what_slots_hold_stays_when_more_come() -> None:
    cache = KVCache(TINY.decoder, 2, torch.empty(0), capacity=8)
    cache.k, cache.v = cache.k[:, :1].normal_(), cache.v[:, :1].normal_()  # as on a GPU
    cache.lengths[0] = 5
    k, v = cache.k.clone(), cache.v.clone()
    cache.copy_prefix(0, 1, 3)
    for x, held in ((cache.k, k), (cache.v, v)):
        assert torch.equal(x[:, 0, :5], held[:, 0, :5])
        assert torch.equal(x[:, 1, :3], held[:, 0, :3])


def test_no_room_for_one_more_token_fails_alone(
    thinker: Thinker, conversation: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasoner = ThinkerReasoner(thinker, num_slots=2)
    longer = [*conversation, {"role": "assistant", "content": "It is a cat."}, {"role": "user", "content": "Which?"}]
    room = len(thinker.processor(longer, generate=True)) + 4
    reserve = reasoner.engine.cache.reserve

    def up_to_room(num_tokens: int, slot: int = 0) -> None:
        if num_tokens > room:
            raise MemoryError(f"no room for {num_tokens}")
        reserve(num_tokens, slot)

    monkeypatch.setattr(reasoner.engine.cache, "reserve", up_to_room)
    monkeypatch.setattr(engine, "AHEAD", 1)
    barrier = threading.Barrier(2)

    def asked(messages: list[dict[str, Any]]) -> Sample:
        barrier.wait()
        return reasoner.sample(messages, max_new_tokens=8)

    with ThreadPoolExecutor(2) as threads:
        short, long = (threads.submit(asked, messages) for messages in (conversation, longer))
        assert short.result().token_ids == thinker.generate(conversation, max_new_tokens=8).token_ids
        with pytest.raises(ModelError, match=f"MemoryError: no room for {room + 1}"):
            long.result()
