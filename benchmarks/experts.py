"""What the measurements of experts share: the sizes of a DeepSeek-V2-Lite layer's routed experts, and the peers."""

from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.benchmarks import vllm_peer
from foveate.benchmarks.measure import SETS, Run
from foveate.benchmarks.peers import experts_layer, has_transformers

EXPERTS, TOP_K, WIDTH, INNER = 64, 6, 2048, 1408

Inputs = tuple[Tensor, Tensor, Tensor]
"""Tokens, their experts and the weights of these."""


def matrices(device: str = "cpu") -> tuple[Tensor, Tensor]:
    """gate_up [E, 2 * I, D] and down [E, D, I] in bf16, 1.1 GB: more than any processor's own memory holds."""
    gate_up = torch.randn(EXPERTS, 2 * INNER, WIDTH, device=device).mul(WIDTH**-0.5).bfloat16()
    return gate_up, torch.randn(EXPERTS, WIDTH, INNER, device=device).mul(INNER**-0.5).bfloat16()


def inputs(num_tokens: int) -> list[Inputs]:
    """As many tokens in each set, their experts drawn evenly; no two sets of a single token share one."""
    sets = []
    for number in range(SETS):
        chances = torch.rand(num_tokens, EXPERTS)
        if num_tokens == 1:
            chances += (torch.arange(EXPERTS) % SETS == number).float()
        weights, experts = chances.topk(TOP_K)
        sets.append((torch.randn(num_tokens, WIDTH).bfloat16(), experts, weights))
    return sets


def read_bytes(sets: Sequence[Inputs]) -> float:
    """Of the experts that somebody has chosen, in bf16: the mean of the sets."""
    return 6 * WIDTH * INNER * fmean(len(experts.unique()) for _, experts, _ in sets)


def peers(sets: Sequence[Inputs], gate_up: Tensor, down: Tensor) -> dict[str, Run]:
    """PyTorch's loop over experts, transformers' better way, and vLLM's, where they are installed.

    Its other way, batched_mm, copies the matrices of each token: 7 times as long for one (2026-11-29).
    """
    runs: dict[str, Run] = {"torch": lambda n: by_torch(*sets[n], gate_up, down)}
    if has_transformers():
        runs["transformers"] = _called(experts_layer(gate_up, down), sets)
    if vllm_peer.has_vllm():
        runs["vllm"] = _called(vllm_peer.experts_layer(gate_up, down), sets)
    return runs


def by_torch(x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor, gate_up_EID: Tensor, down_EDI: Tensor) -> Tensor:
    """A loop over experts: gather, compute, add at the tokens' places."""
    out_TD = torch.zeros_like(x_TD)
    for expert, (gate_up_ID, down_DI) in enumerate(zip(gate_up_EID, down_EDI, strict=True)):
        tokens, choices = torch.where(experts_TK == expert)
        if len(tokens):
            gate, up = F.linear(x_TD[tokens], gate_up_ID).chunk(2, dim=-1)
            y_ND = F.linear(F.silu(gate) * up, down_DI) * weights_TK[tokens, choices, None].to(x_TD.dtype)
            out_TD.index_add_(0, tokens, y_ND)
    return out_TD


def _called(layer: Callable[[Tensor, Tensor, Tensor], Tensor], sets: Sequence[Inputs]) -> Run:
    return lambda number: layer(*sets[number])
