"""Which device of this machine a model computes on."""

from typing import TYPE_CHECKING

from foveate.errors import ConfigError, ModelError, first_line

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "auto"
"""A GPU where torch finds one, else the processor."""


def device_of(name: str) -> "torch.device":
    """A device by its name in torch. Raises ConfigError unless torch can compute there."""
    import torch

    try:
        torch.zeros(1, device=name).item()
        return torch.device(name)
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"device is {name!r}, which torch cannot use ({first_line(error)}); wanted cpu, or cuda"
        ) from error


def automatic() -> str:
    """The name of what AUTO stands for."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def put_on(module: "nn.Module", device: "torch.device") -> None:
    """Move a model's weights to a device. Raises ModelError where there is no room for them."""
    import torch

    try:
        module.to(device)
    except torch.OutOfMemoryError as error:
        size = sum(x.nbytes for x in module.parameters())
        raise ModelError(
            f"{device} has no room for weights of {size:,} bytes; wanted cpu, another GPU (cuda:1), or a smaller model"
        ) from error
