"""Direct preference optimization over whole trajectories, each with crops and tool outputs of its own.

With m = beta [log pi(c) - log ref(c)] - beta [log pi(r) - log ref(r)] for a chosen c and a rejected r, log pi summed
over the tokens that the policy wrote:

    sigmoid  -log sigmoid(m)                                                  Rafailov et al., arXiv 2305.18290
    hinge    max(0, 1 - m)                                                    SLiC, Zhao et al., arXiv 2305.10425
    ipo      (m' - 1 / (2 beta))^2, m' the same per token and without beta    Azar et al., arXiv 2310.12036
    robust   (-(1 - e) log sigmoid(m) + e log sigmoid(-m)) / (1 - 2 e)        Chowdhury et al., arXiv 2403.00409
    mpo      0.8 sigmoid + 0.2 bco + 1.0 (mean -log pi of the chosen)         Wang et al., arXiv 2411.10442

where bco = -log sigmoid(g(c) - d) - log sigmoid(d - g(r)), g = beta log(pi / ref) and d their mean (Jung et al., arXiv
2404.04656). At pi = ref the sigmoid loss is log 2.

Deviation: d is the mean over the batch, not a running one, so that mpo of two accumulated batches is not that of one
twice as large; the other losses are.

Shape letters: B pairs; S tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from foveate.rl.limits import ABOVE_ZERO, BELOW_HALF, check, check_read


@dataclass(frozen=True, kw_only=True)
class DpoConfig:
    """Which loss, and how far from the reference."""

    loss: Literal["sigmoid", "hinge", "ipo", "robust", "mpo"] = "sigmoid"
    beta: float = 0.1
    label_noise: float = 0.1
    """Share of pairs that may be the wrong way round, of the robust loss; below 0.5."""

    def __post_init__(self) -> None:
        check(self, "stage.dpo.", beta=ABOVE_ZERO, label_noise=BELOW_HALF)
        check_read(self, "stage.dpo.", "label_noise", loss="robust")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a batch of pairs."""

    policy_B: Tensor
    """Log-probability of each trajectory under the policy that learns."""
    reference_B: Tensor
    """Under the one that it starts from."""
    tokens_B: Tensor
    """How many tokens the policy wrote, at least one."""

    def gain(self) -> Tensor:
        """Log pi / ref of each trajectory."""
        return self.policy_B - self.reference_B


def dpo_loss(chosen: Side, rejected: Side, config: DpoConfig) -> Tensor:
    """The mean loss of a batch of pairs."""
    margin_B = config.beta * (chosen.gain() - rejected.gain())
    match config.loss:
        case "sigmoid":
            return -logsigmoid(margin_B).mean()
        case "hinge":
            return torch.relu(1 - margin_B).mean()
        case "ipo":
            per_token_B = chosen.gain() / chosen.tokens_B - rejected.gain() / rejected.tokens_B
            return (per_token_B - 1 / (2 * config.beta)).square().mean()
        case "robust":
            noise = config.label_noise
            wrong_B = noise * logsigmoid(-margin_B)
            return ((wrong_B - (1 - noise) * logsigmoid(margin_B)) / (1 - 2 * noise)).mean()
        case "mpo":
            likelihood = (-chosen.policy_B / chosen.tokens_B).mean()
            return 0.8 * -logsigmoid(margin_B).mean() + 0.2 * _bco(chosen, rejected, config.beta) + likelihood


def _bco(chosen: Side, rejected: Side, beta: float) -> Tensor:
    good_B, bad_B = beta * chosen.gain(), beta * rejected.gain()
    middle = torch.cat([good_B, bad_B]).mean().detach()
    return -(logsigmoid(good_B - middle) + logsigmoid(middle - bad_B)).mean()
