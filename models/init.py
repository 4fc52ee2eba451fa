"""How new weights start."""

import torch
from torch import nn

RESIDUAL_OUTPUTS = ("attn.proj.weight", "down.weight", "mlp.down")


def shrink_residuals(blocks: nn.ModuleList) -> None:
    """Divide what each of L pre-norm blocks adds by sqrt(2 L), so that the sum keeps the scale of the input (GPT-2)."""
    with torch.no_grad():
        for name, parameter in blocks.named_parameters():
            if name.endswith(RESIDUAL_OUTPUTS):
                parameter.mul_((2 * len(blocks)) ** -0.5)
