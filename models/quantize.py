"""Weights of the decoder rounded to int8, half of bf16 to read for every token that is decoded, or to 4 bits."""

from torch import Tensor, nn

from foveate.errors import CheckpointError, InputError
from foveate.models.linear import Linear
from foveate.models.moe import MoE
from foveate.models.reasoner import Rounding
from foveate.ops import Int8Rows, Nf4Rows, Rounded


def quantize(decoder: nn.Module, rounding: Rounding, *, within: str = "") -> None:
    """Round the linear layers and the experts, in place; embeddings, norms and routers stay as they are.

    What is rounded already stays so. Of a part of a decoder, `within` is its name there with a dot behind it.

    With nf4 the head, of which each token is chosen, and rows that are no multiple of 64 wide become int8. What is left
    computes and keeps its dtype. There is no gradient and no way back. Raises CheckpointError, with the layer's name,
    for weights that are no finite numbers.
    """
    for name, module in decoder.named_modules():
        if isinstance(module, Linear | MoE) and module.rounded is None:
            try:
                module.round(Int8Rows.of if rounding == "int8" or within + name == "head" else _in_4_bits)
            except InputError as error:
                raise CheckpointError(f"{within}{name}: {error}") from error


def _in_4_bits(weights: Tensor) -> Rounded:
    return Nf4Rows.of(weights) if Nf4Rows.fits(weights) else Int8Rows.of(weights)
