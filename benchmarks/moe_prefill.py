"""Experts over a prompt beside the loop that models of transformers run; the aim is the time of the products alone."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.benchmarks.measure import SETS, Case
from foveate.models.moe import experts_forward

EXPERTS, TOP_K, WIDTH, INNER, TOKENS = 64, 6, 2048, 1408, 512


def by_torch(x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, gate_up_EID: Tensor, down_EDI: Tensor) -> Tensor:
    """The loop over experts of transformers' models: gather, compute, add at the tokens' places."""
    out_TD = torch.zeros_like(x_TD)
    for expert, (gate_up_ID, down_DI) in enumerate(zip(gate_up_EID, down_EDI, strict=True)):
        tokens, choices = torch.where(experts_TK == expert)
        if len(tokens):
            gate, up = F.linear(x_TD[tokens], gate_up_ID).chunk(2, dim=-1)
            y_ND = F.linear(F.silu(gate) * up, down_DI) * weights_TK[tokens, choices, None].to(x_TD.dtype)
            out_TD.index_add_(0, tokens, y_ND)
    return out_TD


def cases() -> Iterator[Case]:
    """bf16 at the sizes of a DeepSeek-V2-Lite layer, routed experts alone."""
    gate_up = torch.randn(EXPERTS, 2 * INNER, WIDTH).mul(WIDTH**-0.5).bfloat16()
    down = torch.randn(EXPERTS, WIDTH, INNER).mul(INNER**-0.5).bfloat16()
    sets = []
    for _ in range(SETS):
        weights, experts = torch.rand(TOKENS, EXPERTS).topk(TOP_K)
        sets.append((torch.randn(TOKENS, WIDTH).bfloat16(), experts, weights))
    yield Case(
        op="moe_prefill",
        shape=f"{TOKENS} tokens, {TOP_K} of {EXPERTS} experts, {WIDTH} x {INNER}",
        dtype="bfloat16",
        ours=lambda n: experts_forward(*sets[n], gate_up, down),
        peers={"torch": lambda n: by_torch(*sets[n], gate_up, down)},
        flops=6 * WIDTH * INNER * TOP_K * TOKENS,
        moved=3 * EXPERTS * WIDTH * INNER * 2,
    )
