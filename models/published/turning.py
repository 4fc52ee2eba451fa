"""Orders of rows: where others put the two numbers of a pair that turns side by side, ours stand half a head apart.

Source: the forward passes of Kimi-VL (MoonViT: columns and rows take turns over the pairs) and of DeepSeek-V3.
"""

from typing import Literal

import torch
from torch import Tensor

from foveate.models.config import ThinkerConfig

Order = Literal["tower", "queries", "key"]


def row_order(order: Order, config: ThinkerConfig) -> Tensor:
    """For each row of a projection of ours the row that is published."""
    decoder, vision = config.decoder, config.vision
    if order == "tower":
        dim = vision.hidden_size // vision.num_heads
        axis = torch.arange(dim // 4)
        head = _halves(torch.cat([2 * axis + 1, 2 * axis]))
        turned = (torch.arange(2 * vision.num_heads)[:, None] * dim + head).flatten()
        return torch.cat([turned, torch.arange(2 * vision.hidden_size, 3 * vision.hidden_size)])
    assert decoder.latent is not None
    turning = _halves(torch.arange(decoder.head_dim // 2))
    if order == "key":
        return torch.cat([torch.arange(decoder.latent.rank), decoder.latent.rank + turning])
    plain = decoder.latent.plain_dim
    head = torch.cat([torch.arange(plain), plain + turning])
    return (torch.arange(decoder.num_heads)[:, None] * len(head) + head).flatten()


def _halves(pairs: Tensor) -> Tensor:
    """The first numbers of the pairs, then the second ones."""
    return torch.cat([2 * pairs, 2 * pairs + 1])
