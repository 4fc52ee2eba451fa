"""The extension: whether it is there, what it runs with, and what the machine computes fastest with.

`foveate._C` registers the kernels as `torch.ops.foveate.*`. When this module is imported one line is logged that says
which run: a warning where the extension was not built or cannot be loaded, and every operation runs plain PyTorch.
Beside it `_cuda.so`, where nvcc built it, brings kernels for GPUs.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from foveate.errors import ConfigError

CUDA_MULTIPLE = 8
"""Widths of rows that the kernels for GPUs take are multiples of this: they read 16 bytes at a time."""
CUDA_ALIGNMENT = 16
"""Bytes."""
CUDA_OLDEST = (8, 0)
"""Compute capability of the GPUs that the kernels run on: their instructions came with Ampere."""
SERVED = (torch.bfloat16, torch.float32)
"""Dtypes of the operations on the processor."""
TILE_ROWS = 16
Gradient = TypeVar("Gradient", bound=Callable[..., object])
_LOGGER = logging.getLogger("foveate.ops")
_OPERATIONS = (
    "rms_norm", "add_rms_norm", "rms_norm_backward", "window_attention", "window_attention_backward",
    "packed_attention", "packed_attention_backward", "silu_mul", "silu_mul_backward", "rotate",
    "moe_dispatch", "moe_combine", "moe_dots", "moe_experts", "moe_order", "decode_attention", "linear", "patchify",
    "resize", "moe_route", "moe_route_backward", "nf4_numbers",
)  # fmt: skip


def _load() -> tuple[str, tuple[str, ...], str]:
    """Load the extension: why it cannot be used (empty if it can), the instruction sets here, and the chosen one."""
    try:
        from foveate import _C
    except ImportError as error:
        return f"the extension cannot be loaded: {error}", (), ""
    missing = [name for name in _OPERATIONS if not hasattr(torch.ops.foveate, name)]
    if missing:
        return f"the extension is older than this source, it lacks {', '.join(missing)}", (), ""
    try:
        isa = _C.isa()
    except RuntimeError as error:
        said = str(error).splitlines()[0].split(", ", 2)[-1]  # behind the place in the source
        raise ConfigError(f"FOVEATE_ISA: {said}") from None
    return "", tuple(name for name, present in _C.cpu_features().items() if present), isa


def _load_cuda() -> str:
    """Load the kernels for GPUs: why they cannot be used, empty if they can."""
    library = Path(__file__).parents[1] / "_cuda.so"
    if _PROBLEM or torch.version.cuda is None:
        return "the extension is not there" if _PROBLEM else "this build of torch has no CUDA"
    if not library.exists():
        return "not built; install where nvcc is found, of a CUDA no newer than torch's"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"cannot be loaded: {error}"
    return ""


_PROBLEM, _FEATURES, _ISA = _load()
_CUDA_PROBLEM = _load_cuda()
_USE = SimpleNamespace(plain=int(bool(_PROBLEM)))
"""How many ask for plain PyTorch: the blocks that run, in any thread, and the machine itself."""
_COUNTING = Lock()


def is_native() -> bool:
    """Whether the native kernels are loaded and used."""
    return _USE.plain == 0  # type: ignore[no-any-return]


@contextmanager
def plain_pytorch() -> Iterator[None]:
    """Inside, every operation of this process runs plain PyTorch, as without the extension: for comparisons."""
    with _COUNTING:
        _USE.plain += 1
    try:
        yield
    finally:
        with _COUNTING:
            _USE.plain -= 1


def is_served(x: Tensor, *, cuda: bool = False) -> bool:
    """Whether the kernels take x: on the CPU in bf16 or f32, and where the operation has one for GPUs there in bf16."""
    if derives_otherwise():
        return False
    if x.is_cuda:
        return cuda and has_kernels(x.device) and x.dtype == torch.bfloat16
    return has_kernels(x.device) and x.dtype in SERVED


def wants_gradient(*operands: object) -> bool:
    """Whether autograd follows any tensor among them: operations without a gradient leave those to torch's own."""
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in operands)


def are_alike(x: Tensor, *operands: object) -> bool:
    """Whether all tensors among them have the dtype of x; under autocast, which torch's own follow, they may differ."""
    return all(operand.dtype == x.dtype for operand in operands if isinstance(operand, Tensor))


def are_evened(x: Tensor, *operands: object) -> bool:
    """Whether autocast brings tensors of several dtypes into one for torch's own operations."""
    return torch.is_autocast_enabled(x.device.type) and not are_alike(x, *operands)


def is_recast(x: Tensor) -> bool:
    """Whether autocast has torch's own products of x computed, and given, in another dtype."""
    device = x.device.type
    return torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) != x.dtype


def derives_otherwise() -> bool:
    """Whether torch derives in a way that our gradients do not know, which are for the backward pass alone.

    Forward (`torch.func.jvp`, a dual level) they would be zeros; inside of `torch.func.grad`, `vjp` and `vmap` torch
    refuses those that it made itself of `register_autograd`.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()  # noqa: SLF001


def has_kernels(device: torch.device) -> bool:
    """Whether there are kernels for a device."""
    if not is_native():
        return False
    return device.type == "cpu" or (device.type == "cuda" and not _CUDA_PROBLEM and is_new_enough(device.index))


@cache
def is_new_enough(gpu: int | None) -> bool:
    """Whether a GPU, by its number or the current one, is of Ampere's generation or later."""
    return torch.cuda.get_device_capability(gpu) >= CUDA_OLDEST


def has_feature(name: str) -> bool:
    """Whether the processor has an instruction set, by the name that `foveate doctor` gives it; False if not known."""
    return name in _FEATURES


def has_tiles() -> bool:
    """Whether our kernels multiply bf16 on tiles of AMX: the processor has them and $FOVEATE_ISA names no other."""
    return _ISA == "amx"


def torch_has_tiles(x: Tensor) -> bool:
    """Whether torch multiplies x on tiles of AMX."""
    return x.is_cpu and x.dtype == torch.bfloat16 and has_feature("amx_bf16")


def takes_tiles(x: Tensor, *weights: Tensor) -> bool:
    """Whether our products of x with these [..., rows, depth] are made on tiles: in bf16, of pairs, 16 rows or more."""
    if not has_tiles() or not x.is_cpu or x.dtype != torch.bfloat16:
        return False
    return all(w.dtype == torch.bfloat16 and w.shape[-1] % 2 == 0 and w.shape[-2] >= TILE_ROWS for w in weights)


def backend() -> str:
    """One line that says what runs the operations: native kernels and with what, or plain PyTorch and why."""
    if _PROBLEM:
        return f"plain PyTorch ({_PROBLEM}; install again where there is a C++ compiler)"
    return f"native kernels, {_ISA} (this processor has {', '.join(_FEATURES) or 'no known extension'})"


def cuda_backend() -> str:
    """One line that says what runs the operations on a GPU, the current one where there is any."""
    problem = _CUDA_PROBLEM
    if not problem and torch.cuda.is_available() and not is_new_enough(None):
        problem = f"for compute capability {CUDA_OLDEST[0]}.{CUDA_OLDEST[1]} and later, which this GPU lacks"
    return f"plain PyTorch (our kernels: {problem})" if problem else "native kernels in bf16"


def compute_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """bf16 where the device multiplies it in hardware; f32 elsewhere: emulated bf16 was about 8x slower on AVX2.

    Every GPU from Ampere on has it. Without the native extension the processor is not known and f32 is the answer.
    """
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):  # torch asks the current one
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if has_feature("avx512bf16") or has_feature("amx_bf16") else torch.float32


class _Read:
    """A context whose saved tensors are read once: with checkpoints of activations they come once alone."""

    def __init__(self, ctx: Any) -> None:
        self._ctx, self.saved_tensors = ctx, ctx.saved_tensors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


class _WithoutGradient(torch.autograd.Function):
    """Gradients by a kernel as they are, tied to all that they were computed from."""

    @staticmethod
    def forward(_: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        """The first `count` of the tensors; the others are what those depend on."""
        return tensors[:count]

    @staticmethod
    def backward(_: Any, *__: Any) -> Any:
        """Raises RuntimeError."""
        raise RuntimeError(
            "a gradient by a kernel has no derivative itself; compute it inside foveate.ops.plain_pytorch()"
        )


def once(gradient: Gradient) -> Gradient:
    """A gradient of ours, which has none itself: asking for one is an error and not zero.

    Also where the gradient that comes in is a constant, of which torch's own decorator makes a silent zero: what the
    gradient was computed from is saved, and may have one.
    """

    @wraps(gradient)
    def refusing(ctx: Any, *incoming: Any) -> Any:
        if not torch.is_grad_enabled():
            return gradient(ctx, *incoming)
        read = _Read(ctx)
        with torch.no_grad():
            given = gradient(read, *incoming)
        several = given if isinstance(given, tuple) else (given,)
        tied = _WithoutGradient.apply(len(several), *several, *incoming, *read.saved_tensors)  # type: ignore[no-untyped-call]
        return tied if isinstance(given, tuple) else tied[0]

    return cast(Gradient, refusing)


class Context(Protocol):
    """What autograd hands from the forward to the backward pass."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors for the backward pass, where they are `saved_tensors`."""

    def set_materialize_grads(self, value: bool) -> None:
        """Whether the gradient of an output that nothing used comes as zeros (else as None)."""


_LOGGER.log(logging.WARNING if _PROBLEM else logging.INFO, "foveate.ops: %s", backend())
