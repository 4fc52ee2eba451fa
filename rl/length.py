"""The length penalty of Kimi k1.5 (arXiv 2501.12599, section 2.3.3): among right answers the shorter earns more.

Over the samples of one prompt, with lengths in tokens that the policy wrote:

    lambda_i = 0.5 - (len_i - min) / (max - min);   reward_i += w * lambda_i          when the answer is right
                                                    reward_i += w * min(0, lambda_i)  when it is wrong

and nothing when all are of one length. The weight w is zero during a warm-up, then constant.

Deviation, when `least_spread` is set: max - min counts as at least that share of their mean, so that a few tokens more
or less, such as the digits of a box, are not worth as much as half a right answer. GRPO divides by the spread of
rewards and so undoes this where all are right, unless its `scale` is none (rl/grpo.py).

Shape letters: B samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.rl.groups import group_mean
from foveate.rl.limits import NOT_NEGATIVE, check


@dataclass(frozen=True, kw_only=True)
class LengthPenalty:
    """How much length counts, and from when."""

    weight: float = 1.0
    warmup_iterations: int = 1
    """Iterations without it."""
    least_spread: float = 0.0
    """Of the lengths of a prompt's samples, as a share of their mean, for the whole penalty."""

    def __post_init__(self) -> None:
        check(self, "length.", weight=NOT_NEGATIVE, warmup_iterations=NOT_NEGATIVE, least_spread=NOT_NEGATIVE)

    def at(self, iteration: int) -> float:
        """The weight of an iteration, from 0."""
        return self.weight if iteration >= self.warmup_iterations else 0.0


def length_rewards(lengths_B: Tensor, right_B: Tensor, groups_B: Tensor, least_spread: float = 0.0) -> Tensor:
    """What length adds to each sample's reward at weight 1, [B] f32 in [-0.5, 0.5].

    Args:
        lengths_B: tokens that the policy wrote.
        right_B: bool, whether the answer is right.
        groups_B: int64, the prompt of each sample.
        least_spread: see LengthPenalty.
    """
    lengths_B = lengths_B.float()
    count = int(groups_B.max()) + 1 if len(groups_B) else 0
    least, most = (
        lengths_B.new_zeros(count).scatter_reduce(0, groups_B, lengths_B, reduce, include_self=False)[groups_B]
        for reduce in ("amin", "amax")
    )
    spread_B = torch.maximum(most - least, least_spread * group_mean(lengths_B, groups_B)).clamp_min(1)
    lambda_B = torch.where(most > least, ((most + least) / 2 - lengths_B) / spread_B, 0.0)
    return torch.where(right_B, lambda_B, lambda_B.clamp_max(0.0))
