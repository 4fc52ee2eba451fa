"""Several processes that train one model together, started by torchrun; one that is alone needs none of it.

Weights, gradients and moments are shared out (fully sharded data parallelism, FSDP2): a block's weights come together
when it computes, and every process learns from batches of its own. What is written, the first process writes.

    torchrun --nproc-per-node 2 -m foveate train sft --config FILE --out DIR
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from foveate.errors import ConfigError
from foveate.models.decoder import DecoderBlock
from foveate.models.vision import VisionBlock

T = TypeVar("T")
PATIENCE = timedelta(hours=12)
"""How long a process waits for the others: one may play, or answer examples, for longer than torch's ten minutes."""


@dataclass(frozen=True)
class Team:
    """The processes of a training and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes files and shows progress."""
        return self.rank == 0

    def total(self, count: float) -> float:
        """The sum of a number over all processes."""
        return float(sum(self._all(count)))

    def most(self, count: float) -> float:
        """The largest of a number over all processes."""
        return float(max(self._all(count)))

    def means(self, totals: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Of weighted sums and their weights, over all processes, the means; those of nothing are left out.

        They come in the order of the first process.
        """
        every = self._all(dict(totals))
        keys = dict.fromkeys(key for one in every for key in one)
        parts = {key: [one[key] for one in every if key in one] for key in keys}
        weights = {key: sum(weight for _, weight in some) for key, some in parts.items()}
        return {key: sum(own for own, _ in parts[key]) / weight for key, weight in weights.items() if weight}

    def of_first(self, value: T) -> T:
        """What the first process has."""
        first: T = self._all(value)[0]
        return first

    def wait(self) -> None:
        """Until every process is here."""
        self._all(None)

    def _all(self, value: Any) -> list[Any]:
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


ALONE = Team()


def choose_gpu(device: str) -> None:
    """Make "cuda" mean a GPU of this process's own, before anything is put there, where torchrun started several.

    Raises ConfigError for one GPU that all would share, and where there are fewer than processes.
    """
    if not dist.is_torchelastic_launched() or not device.startswith("cuda"):
        return
    rank, count = dist.get_node_local_rank(), torch.cuda.device_count()
    if device != "cuda":
        raise ConfigError(f"device is {device!r} in a team, each of which has a GPU of its own; wanted cuda")
    if rank >= count:
        raise ConfigError(f"torchrun started process {rank + 1} here, and torch sees {count} GPUs; start fewer")
    torch.cuda.set_device(rank)


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """The team that torchrun has started, or this process alone."""
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def leave() -> None:
    """End this process with code 0 if torchrun started it, without the interpreter's own end; else do nothing.

    Threads of gloo outlive their group (caches of torch hold it) and may have tensors of the last exchange yet to let
    go of. For that they take the interpreter's lock, which aborts the process while the interpreter ends
    (pytorch/pytorch issue 190489).
    """
    if dist.is_torchelastic_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def share_out(module: nn.Module, team: Team, *, reads_blocks: bool = False, device: str | None = None) -> nn.Module:
    """Give each process a part of every weight; a block is gathered when it computes, the rest with the whole.

    On the device given, if the module is not there yet: then no GPU ever holds all of it.
    With `reads_blocks` a block stays gathered until its gradient is there.
    """
    if team.size > 1:
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        place = torch.device(device) if device else next(module.parameters()).device
        mesh = init_device_mesh(place.type, (team.size,))  # else a machine's GPUs are taken though all is on its CPUs
        for part in module.modules():
            if isinstance(part, DecoderBlock | VisionBlock):
                fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=not reads_blocks)
        fully_shard(module, mesh=mesh, mp_policy=policy)
    return module


def touching_all(loss: Tensor, module: nn.Module) -> Tensor:
    """The same loss, with a gradient of zero for what it has no use for: a team adds up gradients of one size.

    Called in the forward pass of the module that was shared out, whose blocks have their own.
    """
    if not isinstance(module, FSDPModule):
        return loss
    present = (p for p in module.parameters() if p.requires_grad and not isinstance(p, DTensor))
    sums = [p.float().sum() for p in present]  # none where adapters alone learn, which blocks have
    return loss + 0.0 * torch.stack(sums).sum() if sums else loss


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Inside the block every process has all weights, to sample with them or to write them."""
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def each_whole(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All weights by their names, each whole; of those that are shared out one block at a time is gathered."""
    for prefix, part in module.named_modules():
        if not isinstance(part, FSDPModule):
            continue
        part.unshard()
        for name, parameter in cast(nn.Module, part).named_parameters(prefix=prefix):
            if not isinstance(parameter, DTensor):
                yield name, parameter.detach()
        part.reshard()


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a shared tensor; all of one that is not shared."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(part: Tensor, like: Tensor) -> Tensor:
    """The whole of which each process has a part, shared out as `like` is."""
    if not isinstance(like, DTensor):
        return part
    shared = DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return shared.full_tensor()


def own_rows(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that is this process's where `like` is shared out."""
    if not isinstance(like, DTensor):
        return tensor
    chunks: Sequence[Tensor] = tensor.chunk(like.device_mesh.size(), dim=0)
    rank = like.device_mesh.get_local_rank()
    return chunks[rank] if rank < len(chunks) else tensor[:0]


def norm_of_all(norm: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of gradients of which this process's part has the norm given."""
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        squared = norm.square()
        dist.all_reduce(squared)
        return squared.sqrt()
    return norm
