"""How new weights start: with numbers, or without where a checkpoint brings them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

RESIDUAL_OUTPUTS = ("attn.proj.weight", "down.weight", "mlp.down")
FILLS = frozenset({"normal_", "uniform_", "kaiming_uniform_", "orthogonal_", "mul_"})
"""What gives a new parameter its numbers."""


def shrink_residuals(blocks: nn.ModuleList) -> None:
    """Divide what each of L pre-norm blocks adds by sqrt(2 L), so that the sum keeps the scale of the input (GPT-2)."""
    with torch.no_grad():
        for name, parameter in blocks.named_parameters():
            if name.endswith(RESIDUAL_OUTPUTS):
                parameter.mul_((2 * len(blocks)) ** -0.5)


class _Unfilled(TorchFunctionMode):
    """Inside, what would give a parameter its numbers does nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        return (args or list(given.values()))[0] if func.__name__ in FILLS else func(*args, **given)


@contextmanager
def laid_out() -> Iterator[None]:
    """Inside, new modules have shapes and neither numbers nor memory.

    On the device meta alone torch works out the result of every fill, for which it first imports its compiler: two of
    the seconds that a command took.
    """
    with torch.device("meta"), _Unfilled():
        yield
