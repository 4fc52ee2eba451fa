"""Routing follows its definition; experts are chosen and weighted as configured."""

import pytest
import torch

from foveate.models.config import MoEConfig
from foveate.models.moe import MoE, balance_loss


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_weights_of_a_token_sum_to_the_scale(scoring: str) -> None:
    torch.manual_seed(0)
    config = MoEConfig(num_experts=6, top_k=3, intermediate_size=8, scoring=scoring, routed_scale=2.5)  # type: ignore[arg-type]
    experts, weights, _ = MoE(16, config).route(torch.randn(11, 16))
    torch.testing.assert_close(weights.sum(-1), torch.full((11,), 2.5))
    assert all(len(set(row)) == 3 for row in experts.tolist())


def test_only_who_learns_balances() -> None:
    torch.manual_seed(0)
    moe, x_TD = MoE(16, MoEConfig(num_experts=6, top_k=3, intermediate_size=8)), torch.randn(11, 16)
    assert float(moe(x_TD)[1].detach()) >= 1.0
    with torch.no_grad():
        assert float(moe(x_TD)[1]) == 0.0


def test_balance_loss_is_one_when_even_and_num_experts_when_one_takes_all() -> None:
    even = torch.full((8, 4), 0.25)
    assert balance_loss(even, torch.arange(8)[:, None] % 4) == pytest.approx(1.0)
    one = torch.eye(4)[torch.zeros(8, dtype=torch.long)]
    assert balance_loss(one, torch.zeros(8, 1, dtype=torch.long)) == pytest.approx(4.0)
