"""How a comparison is made: everybody in turn, the median of each, floors from what this machine reaches.

Speed drifts by tens of percent within minutes on shared machines, so that only what ran interleaved can be compared.
Inputs rotate through several sets, or caches would flatter whoever runs second.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TypeVar

import torch
from torch.nn import functional as F

from foveate.benchmarks import ALSO, NAMES, ON_REQUEST
from foveate.errors import ConfigError
from foveate.ops import plain_pytorch

SETS = 4
"""Sets of inputs; a run is given the number of one of them."""
MOST_ROUNDS = 200
WITHOUT = "before"
"""A peer: what this package did before it had kernels, and does without them, in plain PyTorch."""
Run = Callable[[int], object]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation at one size, by us and by others."""

    op: str
    shape: str
    dtype: str
    ours: Run
    peers: dict[str, Run]
    flops: float | None = None
    """Multiplications and additions that nobody can leave out."""
    moved: float | None = None
    """Bytes that go from or to memory at least."""
    device: str = "cpu"
    """Where it runs, as torch names it."""
    size: int | None = None
    """What grows from case to case, if something does: patches, tokens or those of the past."""
    sets: int = SETS
    """Of inputs; 1 where a run does not look at its number."""
    differ: bool = False
    """Whether the sets differ in their work: then times are the mean of each one's median."""
    rounds: int = 3
    """How often everybody runs at least; of several sets, each at least once."""
    repeats: int = 1
    """How often a run does it; times are of one."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A comparison with one peer; `ratio` is how many times as long the peer took."""

    op: str
    shape: str
    dtype: str
    threads: int
    rounds: int
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    floor_ms: float | None
    device: str
    size: int | None


@dataclass(kw_only=True)
class Floors:
    """What torch's own product and copy reach here, measured when first asked for."""

    rates: dict[str, float] = field(default_factory=dict)

    def of(self, case: Case) -> float | None:
        """Milliseconds that a case takes at these rates, the slower of arithmetic and memory; None if not known."""
        times = []
        if case.flops is not None:
            times.append(case.flops / self._rate(case.dtype, case.device))
        if case.moved is not None:
            times.append(case.moved / self._rate("copy", case.device))
        return 1e3 * max(times) if times else None

    def _rate(self, kind: str, device: str) -> float:
        key = f"{kind} on {device}"
        if key not in self.rates:
            self.rates[key] = _copied_bytes(device) if kind == "copy" else _product_flops(getattr(torch, kind), device)
        return self.rates[key]


def _best(run: Callable[[], object], times: int, device: str) -> float:
    seconds = []
    for _ in range(times):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _wait(device: str) -> None:
    """Until a device has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def _product_flops(dtype: torch.dtype, device: str) -> float:
    """Operations a second of a product of square matrices, larger ones on a GPU: the better of two layouts, warmed."""
    size = 2048 if device == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    ways = (lambda: a @ b, lambda: F.linear(a, b))
    for way in ways:
        way()
    return 2 * size**3 / min(_best(way, 5, device) for way in ways)


def _copied_bytes(device: str) -> float:
    """Bytes read and written a second by a copy of 256 MB, on a GPU of 4 GB."""
    source = torch.ones((64 << 20) if device == "cpu" else (1 << 30), device=device)
    target = torch.empty_like(source)
    return 8 * source.numel() / _best(lambda: target.copy_(source), 3, device)


def plainly(run: Callable[[int], T]) -> Callable[[int], T]:
    """The same in plain PyTorch."""

    def plain(number: int) -> T:
        with plain_pytorch():
            return run(number)

    return plain


def compare(case: Case, floors: Floors, seconds: float) -> list[Row]:
    """The rows of a case; everybody runs in turn for about `seconds` together."""
    runs = {"": case.ours, **case.peers}
    for run in runs.values():
        for number in range(case.sets):  # each may have shapes that a library compiles for
            run(number)
    _wait(case.device)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    while len(spent[""]) < case.rounds or (time.perf_counter() - start < seconds and len(spent[""]) < MOST_ROUNDS):
        for number in range(case.sets):
            for name, run in runs.items():
                begun = time.perf_counter()
                run(number)
                _wait(case.device)
                spent[name].append(time.perf_counter() - begun)
    kinds = case.sets if case.differ else 1
    medians = {name: 1e3 * _typical(times, kinds) / case.repeats for name, times in spent.items()}
    floor = floors.of(case)
    return [
        Row(
            op=case.op,
            shape=case.shape,
            dtype=case.dtype,
            threads=torch.get_num_threads(),
            rounds=len(spent[""]),
            ours_ms=round(medians[""], 4),
            peer=peer,
            peer_ms=round(medians[peer], 4),
            ratio=round(medians[peer] / medians[""], 2),
            floor_ms=None if floor is None else round(floor, 4),
            device="cpu" if case.device == "cpu" else torch.cuda.get_device_name(),
            size=case.size,
        )
        for peer in case.peers
    ]


def _typical(times: Sequence[float], kinds: int) -> float:
    """The mean over kinds of runs, which came by turns, of the median of each."""
    return statistics.fmean(statistics.median(times[number::kinds]) for number in range(kinds))


def rows(names: Sequence[str], seconds: float) -> Iterator[dict[str, object]]:
    """The rows of the named measurements, of all without names.

    Raises:
        ConfigError: a name is not known.
    """
    for name in names:
        if name not in (*NAMES, *ALSO, *ON_REQUEST):
            known = ", ".join((*NAMES, *ALSO, *ON_REQUEST))
            raise ConfigError(f"no measurement is named {name!r}; there are {known}")
    return _measured(names, seconds)


def _measured(names: Sequence[str], seconds: float) -> Iterator[dict[str, object]]:
    floors = Floors()
    for name in names or NAMES:
        cases: Callable[[], Iterator[Case]] = import_module(f"foveate.benchmarks.{ALSO.get(name, name)}").cases
        for case in cases():
            if name in ALSO and case.op != name:
                continue
            for row in compare(case, floors, seconds):
                yield asdict(row)
