"""Two baselines to compare with: group-relative policy optimization, and REINFORCE with a leave-one-out baseline.

GRPO (DeepSeekMath, arXiv 2402.03300, equation 3):

    A = (r - mean r) / (std r + eps) over the samples of a prompt
    L = - mean over tokens of min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A),   rho = pi(token) / pi_old(token)

Deviations from that equation, as in DAPO (arXiv 2503.14476): no KL term; the mean is over the tokens of all samples,
where the paper takes that of each sample first; eps_high may be larger than eps_low. Ours: eps beside the spread.
Divided by its spread a group counts as much as any other however little its samples differ: where all are right, the
length penalty alone is worth what being right is worth elsewhere, whatever `least_spread` says (rl/length.py). With
`scale: none` there is no division, as in Dr. GRPO (arXiv 2503.20783).

RLOO (Ahmadian et al., arXiv 2402.14740): A = r - mean of the other samples' r. The gradient is that of

    L = - mean over samples of rho A,   rho = pi(y) / pi_old(y)

which at pi_old is REINFORCE. Deviation: in it rho counts as at most MOST_RATIO (truncated importance sampling, IMPALA,
arXiv 1802.01561), since the ratio of a whole answer knows no bound when the weights that sampled are old. For that
rho is taken out of the graph and the loss is - mean rho A log(pi / pi_old).

Shape letters: S tokens that the policy wrote, B samples.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveate.rl.groups import group_mean, group_std, leave_one_out_mean
from foveate.rl.limits import ABOVE_ZERO, NOT_NEGATIVE, SHARE, check
from foveate.rl.logprobs import summed

MOST_RATIO = 10.0


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """How far a token's probability may move in one iteration, and what an advantage is measured in."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    eps: float = 1e-4
    scale: Literal["std", "none"] = "std"
    """What advantages of a group are divided by."""

    def __post_init__(self) -> None:
        check(self, "grpo.", clip_low=SHARE, clip_high=NOT_NEGATIVE, eps=ABOVE_ZERO)


def grpo_targets(rewards_B: Tensor, groups_B: Tensor, config: GrpoConfig) -> Tensor:
    """Advantages of GRPO, [B]; over whole groups, before samples are cut into batches."""
    advantages_B = rewards_B - group_mean(rewards_B, groups_B)
    return advantages_B if config.scale == "none" else advantages_B / (group_std(rewards_B, groups_B) + config.eps)


def grpo_loss(logprobs_S: Tensor, sampled_S: Tensor, sample_S: Tensor, targets_B: Tensor, config: GrpoConfig) -> Tensor:
    """GRPO's loss; arguments as in `pmd_loss`, targets from `grpo_targets`."""
    advantages_S = targets_B[sample_S]
    ratio_S = (logprobs_S - sampled_S).exp()
    clipped_S = ratio_S.clamp(1 - config.clip_low, 1 + config.clip_high)
    return -torch.minimum(ratio_S * advantages_S, clipped_S * advantages_S).mean()


def rloo_targets(rewards_B: Tensor, groups_B: Tensor) -> Tensor:
    """Advantages of RLOO, [B]; over whole groups."""
    return rewards_B - leave_one_out_mean(rewards_B, groups_B)


def rloo_loss(logprobs_S: Tensor, sampled_S: Tensor, sample_S: Tensor, targets_B: Tensor) -> Tensor:
    """RLOO's loss; arguments as in `pmd_loss`, targets from `rloo_targets`."""
    log_ratio_B = summed(logprobs_S - sampled_S, sample_S, len(targets_B))
    ratio_B = log_ratio_B.detach().clamp_max(math.log(MOST_RATIO)).exp()
    return -(ratio_B * targets_B * log_ratio_B).mean()
