"""Weights of the decoder in int8, each row with a scale: half of bf16 to read for every token that is decoded."""

from torch import nn

from foveate.models.linear import Linear
from foveate.models.moe import MoE


def quantize(decoder: nn.Module) -> None:
    """Round the linear layers and the experts to int8, in place; embeddings, norms and routers stay as they are.

    What is left computes and keeps its dtype. There is no gradient and no way back.
    """
    for module in decoder.modules():
        if isinstance(module, Linear | MoE):
            module.to_int8()
