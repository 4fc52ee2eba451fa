"""Policy mirror descent (Kimi k1.5, arXiv 2501.12599, section 2.3.2; used for Kimi-VL-Thinking, arXiv 2504.07491).

With the current policy pi_i as reference, the policy that maximises E[r] - tau KL(pi || pi_i) satisfies
r - tau log Z = tau log(pi / pi_i). The loss is the squared distance from that, over samples y of pi_i:

    L = 1 / (2 tau) * mean over samples of (r - b - tau log(pi(y) / pi_i(y)))^2

with b = tau log Z, estimated over the samples of a prompt as

    mean       the mean reward, the limit for a large tau, which Kimi uses
    partition  tau log mean exp(r / tau)

log pi(y) is the sum over the tokens that the policy wrote. At pi = pi_i the gradient is that of REINFORCE with baseline
b; away from it the squared term pulls back. tau is not published; the optimizer's state is reset every iteration.

The token level (Kimi K2.5, arXiv 2602.02276) clips each token's ratio instead of squaring a whole sequence's:

    L = - mean over tokens of [ clip(pi / pi_i, a, b) (r - mean r) - tau (log(pi / pi_i))^2 ]

Deviations from the paper: 1 / (2 tau), so that the step does not grow with tau. With staleness or partial rollouts pi_i
is the policy that sampled, for each token its own, which is older than the current one; the ratio has no bound.

Shape letters: S tokens that the policy wrote, B samples.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from foveate.errors import ConfigError
from foveate.rl.groups import group_log_mean_exp, group_mean
from foveate.rl.limits import ABOVE_ZERO, AROUND_ONE, check, check_read
from foveate.rl.logprobs import summed


@dataclass(frozen=True, kw_only=True)
class PmdConfig:
    """The form of the loss."""

    tau: float = 0.1
    baseline: Literal["mean", "partition"] = "mean"
    level: Literal["sequence", "token"] = "sequence"
    clip: tuple[float, float] = (0.8, 1.28)
    """Of a token's ratio, at the token level."""

    def __post_init__(self) -> None:
        check(self, "pmd.", tau=ABOVE_ZERO, clip=AROUND_ONE)
        check_read(self, "pmd.", "clip", level="token")
        if self.baseline == "partition" and self.level == "token":
            raise ConfigError("pmd.baseline is partition and pmd.level token, which takes the mean; wanted one of them")


def pmd_targets(rewards_B: Tensor, groups_B: Tensor, config: PmdConfig) -> Tensor:
    """Rewards less their baseline over the whole group, r - b of each sample, [B]."""
    if config.baseline == "mean":
        return rewards_B - group_mean(rewards_B, groups_B)
    return rewards_B - config.tau * group_log_mean_exp(rewards_B / config.tau, groups_B)


def pmd_loss(logprobs_S: Tensor, sampled_S: Tensor, sample_S: Tensor, targets_B: Tensor, config: PmdConfig) -> Tensor:
    """The loss of a batch of samples.

    Args:
        logprobs_S: of the tokens that were written, under the policy that learns.
        sampled_S: the same under the policy that sampled; no gradient goes there.
        sample_S: int64, the sample of each token.
        targets_B: of each sample, from `pmd_targets`.
        config: which form.
    """
    log_ratio_S = logprobs_S - sampled_S
    if config.level == "token":
        gain_S = log_ratio_S.exp().clamp(*config.clip) * targets_B[sample_S] - config.tau * log_ratio_S.square()
        return -gain_S.mean()
    missing_B = targets_B - config.tau * summed(log_ratio_S, sample_S, len(targets_B))
    return missing_B.square().mean() / (2 * config.tau)
