"""The choice of experts by a router's logits, and the weights of those that were chosen.

Shape letters: T tokens, E experts (of a group where G groups are named), K experts of a token.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from foveate.ops.native import Context, is_native, is_served, once

LEAST_SUM = 1e-9
"""Of chosen scores, by which weights are divided."""


def route(
    logits_TE: Tensor,
    top_k: int,
    *,
    sigmoid: bool = False,
    bias_E: Tensor | None = None,
    normed: bool = True,
    scale: float = 1.0,
    groups: tuple[int, int] = (1, 1),
) -> tuple[Tensor, Tensor, Tensor]:
    """The experts of each token [T, K], the best first, their weights [T, K], and all scores [T, E].

    Args:
        logits_TE: f32 for the kernel; in any other dtype plain PyTorch runs.
        top_k: K.
        sigmoid: whether a score is the sigmoid of its logit (DeepSeek-V3, arXiv 2412.19437), or a softmax over all.
        bias_E: added to the scores for the choice alone; it has no gradient.
        normed: whether the weights of a token are divided by their sum.
        scale: of the weights, at the end.
        groups: of neighbouring experts, and of how many each token chooses; a group is worth the sum of its two best.
    """
    if logits_TE.dtype == torch.float32 and logits_TE.is_cpu and is_served(logits_TE):
        bias = None if bias_E is None else bias_E.detach().float().contiguous()
        weights_TK, scores_TE, experts_TK = torch.ops.foveate.moe_route(
            logits_TE.contiguous(), bias, top_k, sigmoid, normed, scale, *groups
        )
        return experts_TK, weights_TK, scores_TE
    scores_TE = logits_TE.sigmoid() if sigmoid else logits_TE.softmax(-1)
    wanted_TE = scores_TE.detach() if bias_E is None else scores_TE.detach() + bias_E.detach()
    if groups[0] > 1:
        wanted_TE = _within_groups(wanted_TE, *groups)
    experts_TK = torch.topk(wanted_TE, top_k, dim=-1).indices
    weights_TK = scores_TE.gather(-1, experts_TK)
    if normed:
        weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True).clamp_min(LEAST_SUM)
    return experts_TK, weights_TK * scale, scores_TE


def _within_groups(wanted_TE: Tensor, num_groups: int, top_groups: int) -> Tensor:
    """[T, E] with -inf outside each token's best groups."""
    wanted_TGE = wanted_TE.unflatten(-1, (num_groups, -1))
    worth_TG = wanted_TGE.topk(min(2, wanted_TGE.shape[-1]), dim=-1).values.sum(-1)
    best_TG = worth_TG.topk(top_groups, dim=-1).indices
    left_out_TG = torch.ones_like(worth_TG, dtype=torch.bool).scatter(-1, best_TG, value=False)
    kept_TE: Tensor = wanted_TGE.masked_fill(left_out_TG[..., None], float("-inf")).flatten(-2)
    return kept_TE


class _RouteContext(Context, Protocol):
    sigmoid: bool
    normed: bool
    scale: float


def _fake(
    logits: Tensor, bias: Tensor | None, top_k: int, sigmoid: bool, normed: bool, scale: float, groups: int, top: int
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (logits.shape[0], top_k)
    return logits.new_empty(shape), torch.empty_like(logits), logits.new_empty(shape, dtype=torch.int64)


def _fake_backward(
    grad_weights: Tensor,
    grad_scores: Tensor | None,
    experts: Tensor,
    scores: Tensor,
    sigmoid: bool,
    normed: bool,
    scale: float,
) -> Tensor:
    return torch.empty_like(scores)


def _save(ctx: _RouteContext, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, _, _, ctx.sigmoid, ctx.normed, ctx.scale, _, _ = inputs
    _, scores, experts = output
    ctx.save_for_backward(experts, scores)
    ctx.set_materialize_grads(False)


@once
def _gradient(
    ctx: _RouteContext, grad_weights: Tensor | None, grad_scores: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    experts, scores = ctx.saved_tensors
    weights = scores.new_zeros(experts.shape) if grad_weights is None else grad_weights.contiguous()
    both = None if grad_scores is None else grad_scores.contiguous()
    grad = torch.ops.foveate.moe_route_backward(weights, both, experts, scores, ctx.sigmoid, ctx.normed, ctx.scale)
    return grad, *(None,) * 7


if is_native():
    torch.library.register_fake("foveate::moe_route", _fake)
    torch.library.register_fake("foveate::moe_route_backward", _fake_backward)
    torch.library.register_autograd("foveate::moe_route", _gradient, setup_context=_save)
