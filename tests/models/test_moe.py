"""Routing follows its definition; experts are chosen and weighted as configured."""

import pytest
import torch

from foveate.errors import ConfigError
from foveate.models.config import MoEConfig
from foveate.models.moe import MoE, balance_loss


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_weights_of_a_token_sum_to_the_scale(scoring: str) -> None:
    torch.manual_seed(0)
    config = MoEConfig(num_experts=6, top_k=3, intermediate_size=8, scoring=scoring, routed_scale=2.5)  # type: ignore[arg-type]
    experts, weights, _ = MoE(16, config).route(torch.randn(11, 16))
    torch.testing.assert_close(weights.sum(-1), torch.full((11,), 2.5))
    assert all(len(set(row)) == 3 for row in experts.tolist())


def test_groups_are_chosen_as_in_deepseek_v3() -> None:
    from transformers.models.deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

    torch.manual_seed(0)
    sizes = {"n_routed_experts": 12, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2, "hidden_size": 16,
             "moe_intermediate_size": 8, "n_shared_experts": 1, "routed_scaling_factor": 2.5}  # fmt: skip
    theirs = DeepseekV3TopkRouter(DeepseekV3Config(**sizes))
    config = MoEConfig(
        num_experts=12, top_k=4, intermediate_size=8, scoring="sigmoid", routed_scale=2.5, num_groups=4, top_groups=2
    )
    ours = MoE(16, config)
    bias = torch.randn(12) * 0.3
    with torch.no_grad():
        theirs.weight.copy_(ours.router.weight)
        theirs.e_score_correction_bias.copy_(bias)
        ours.correction_bias.copy_(bias)
    x_TD = torch.randn(50, 16)
    _, weights, wanted = theirs(x_TD)
    experts, own, _ = ours.route(x_TD)
    assert [set(row) for row in experts.tolist()] == [set(row) for row in wanted.tolist()]
    torch.testing.assert_close(own.gather(1, experts.argsort()), weights.gather(1, wanted.argsort()))


@pytest.mark.parametrize(("num_groups", "top_groups"), [(4, 1), (2, 3), (2, 0)])
def test_groups_that_cannot_be_are_refused(num_groups: int, top_groups: int) -> None:
    with pytest.raises(ConfigError, match=f"6 experts are in {num_groups} groups of which {top_groups} are chosen"):
        MoEConfig(num_experts=6, top_k=2, intermediate_size=8, num_groups=num_groups, top_groups=top_groups)


def test_more_experts_than_the_chosen_groups_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="each token has 7 experts, wanted 1 to 6"):
        MoEConfig(num_experts=12, top_k=7, intermediate_size=8, num_groups=4, top_groups=2)


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
