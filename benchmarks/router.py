"""A router's choice of experts beside plain PyTorch's dozen operations, as nano and Kimi-VL choose them.

The aim is what its product takes; for one token nearly all is the number of operations.
"""

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from foveate.benchmarks.measure import Case, plainly
from foveate.models.config import MoEConfig
from foveate.models.moe import MoE

NANO = MoEConfig(num_experts=8, top_k=2, intermediate_size=128)
KIMI = MoEConfig(num_experts=64, top_k=6, intermediate_size=1408, scoring="sigmoid", routed_scale=2.446)
TOKENS = (1, 512)
LAYERS = 24


def cases() -> Iterator[Case]:
    """bf16, without a gradient, each time another layer."""
    for config, width in ((NANO, 256), (KIMI, 2048)):
        for num_tokens in TOKENS:
            yield _case(config, width, num_tokens)


def _case(config: MoEConfig, width: int, num_tokens: int) -> Case:
    with torch.device("meta"):
        layers = [MoE(width, config) for _ in range(LAYERS)]  # of which the router alone has numbers
    for layer in layers:
        layer.router.to_empty(device="cpu").bfloat16().weight.data.normal_(std=width**-0.5)
        if config.scoring == "sigmoid":
            layer.correction_bias = torch.nn.Parameter(torch.zeros(config.num_experts), requires_grad=False)
    x_TD, turn = torch.randn(num_tokens, width).bfloat16(), count()

    @torch.inference_mode()
    def ours(_: int) -> Tensor:
        return layers[next(turn) % LAYERS].route(x_TD)[1]

    return Case(
        op="router",
        shape=f"{num_tokens} tokens of {width}, {config.top_k} of {config.num_experts} experts, {config.scoring}",
        dtype="bfloat16",
        ours=ours,
        peers={"torch": plainly(ours)},
        flops=2 * num_tokens * width * config.num_experts,
    )
