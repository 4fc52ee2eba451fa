"""The permuted, grouped computation equals a loop over tokens, forward and gradient; routing follows its definition."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.models.config import MoEConfig
from foveate.models.moe import MoE, balance_loss, experts_forward


def loop(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """One token and one expert at a time."""
    rows = []
    for token, chosen, scale in zip(x, experts, weights, strict=True):
        row = torch.zeros_like(token)
        for expert, weight in zip(chosen.tolist(), scale, strict=True):
            gate, up = (gate_up[expert] @ token).chunk(2)
            row = row + weight * (down[expert] @ (F.silu(gate) * up))
        rows.append(row)
    return torch.stack(rows) if rows else x


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 37, 150])
def test_equals_a_loop_over_tokens(num_tokens: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(num_tokens, 6, requires_grad=True)
    gate_up, down = (torch.randn(shape, requires_grad=True) for shape in ((5, 8, 6), (5, 6, 4)))
    experts = (
        torch.stack([torch.randperm(5)[:2] for _ in range(num_tokens)]) if num_tokens else torch.zeros(0, 2).long()
    )
    weights = torch.rand(num_tokens, 2, requires_grad=True)
    got, wanted = (f(x, experts, weights, gate_up, down) for f in (experts_forward, loop))
    torch.testing.assert_close(got, wanted)
    if num_tokens:
        inputs, seed = (x, weights, gate_up, down), torch.randn_like(got)
        for a, b in zip(*(torch.autograd.grad((y * seed).sum(), inputs) for y in (got, wanted)), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_weights_of_a_token_sum_to_the_scale(scoring: str) -> None:
    torch.manual_seed(0)
    config = MoEConfig(num_experts=6, top_k=3, intermediate_size=8, scoring=scoring, routed_scale=2.5)  # type: ignore[arg-type]
    experts, weights, _ = MoE(16, config).route(torch.randn(11, 16))
    torch.testing.assert_close(weights.sum(-1), torch.full((11,), 2.5))
    assert all(len(set(row)) == 3 for row in experts.tolist())


def test_balance_loss_is_one_when_even_and_num_experts_when_one_takes_all() -> None:
    even = torch.full((8, 4), 0.25)
    assert balance_loss(even, torch.arange(8)[:, None] % 4) == pytest.approx(1.0)
    one = torch.eye(4)[torch.zeros(8, dtype=torch.long)]
    assert balance_loss(one, torch.zeros(8, 1, dtype=torch.long)) == pytest.approx(4.0)
