"""Statistics over the samples of each prompt.

Shape letters: B samples.
"""

import torch
from torch import Tensor


def group_mean(values_B: Tensor, groups_B: Tensor) -> Tensor:
    """For each sample the mean over its group, [B]."""
    count = int(groups_B.max()) + 1 if len(groups_B) else 0
    sums = values_B.new_zeros(count).index_add(0, groups_B, values_B)
    sizes = torch.bincount(groups_B, minlength=count).to(values_B)
    return (sums / sizes)[groups_B]


def leave_one_out_mean(values_B: Tensor, groups_B: Tensor) -> Tensor:
    """For each sample the mean over the others of its group; its own value where it is alone."""
    sizes_B = torch.bincount(groups_B)[groups_B].to(values_B)
    others_B = (group_mean(values_B, groups_B) * sizes_B - values_B) / (sizes_B - 1).clamp_min(1)
    return torch.where(sizes_B > 1, others_B, values_B)


def group_std(values_B: Tensor, groups_B: Tensor) -> Tensor:
    """For each sample the standard deviation of its group (of all its members), [B]."""
    return group_mean((values_B - group_mean(values_B, groups_B)).square(), groups_B).sqrt()


def group_log_mean_exp(values_B: Tensor, groups_B: Tensor) -> Tensor:
    """For each sample log of the mean of exp over its group, [B], without overflow."""
    count = int(groups_B.max()) + 1 if len(groups_B) else 0
    most_B = values_B.new_zeros(count).scatter_reduce(0, groups_B, values_B, "amax", include_self=False)[groups_B]
    return most_B + group_mean((values_B - most_B).exp(), groups_B).log()
