"""Mixture of experts: the router, and the experts that it chooses (`foveate.ops.experts_forward`).

Shape letters: T tokens, D width, E experts, K experts of a token.
"""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from foveate.models.config import MoEConfig
from foveate.models.feedforward import SwiGLU
from foveate.models.linear import Round
from foveate.ops import Rounded, experts_forward, linear_f32, route


class MoE(nn.Module):
    """Routed experts, and shared experts that see every token."""

    rounded: tuple[Rounded, Rounded] | None = None

    def __init__(self, hidden_size: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        inner = config.intermediate_size
        self.router = nn.Linear(hidden_size, config.num_experts, bias=False)
        self.gate_up = nn.Parameter(torch.empty(config.num_experts, 2 * inner, hidden_size))
        self.down = nn.Parameter(torch.empty(config.num_experts, hidden_size, inner))
        nn.init.normal_(self.gate_up, std=hidden_size**-0.5)
        nn.init.normal_(self.down, std=inner**-0.5)
        if config.scoring == "sigmoid":
            self.correction_bias = nn.Parameter(torch.zeros(config.num_experts), requires_grad=False)
        self.shared = SwiGLU(hidden_size, inner * config.num_shared_experts) if config.num_shared_experts else None

    def route(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Chosen experts [T, K], their weights [T, K] in f32, and the load-balancing loss of this batch (scalar).

        Where nothing is learned the loss is not computed, and zero.
        """
        config = self.config
        experts_TK, weights_TK, scores_TE = route(
            linear_f32(x_TD, self.router.weight),
            config.top_k,
            sigmoid=config.scoring == "sigmoid",
            bias_E=self.correction_bias if config.scoring == "sigmoid" else None,
            normed=config.norm_top_k,
            scale=config.routed_scale,
            groups=(config.num_groups, config.top_groups),
        )
        balance = balance_loss(scores_TE, experts_TK) if torch.is_grad_enabled() else scores_TE.new_zeros(())
        return experts_TK, weights_TK, balance

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """[T, D] -> [T, D] and the load-balancing loss."""
        experts_TK, weights_TK, balance = self.route(x_TD)
        gate_up, down = self.rounded or (self.gate_up, self.down)
        y_TD = experts_forward(x_TD, experts_TK, weights_TK, gate_up, down)
        if self.shared is not None:
            y_TD = y_TD + self.shared(x_TD)
        return y_TD, balance

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What moves a module moves its rounded weights too."""
        self.rounded = self.rounded and (self.rounded[0].moved(fn), self.rounded[1].moved(fn))
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def round(self, by: Round) -> None:
        """Keep the experts' weights rounded, and nothing else of them."""
        self.rounded = by(self.gate_up), by(self.down)
        self.gate_up, self.down = (nn.Parameter(x.new_empty(0), requires_grad=False) for x in (self.gate_up, self.down))


def balance_loss(scores_TE: Tensor, experts_TK: Tensor) -> Tensor:
    """Switch Transformer's loss: E * sum over experts of (share of choices) * (mean share of score); 1 when even."""
    num_experts = scores_TE.shape[-1]
    experts_S = experts_TK.reshape(-1)
    counts_E = experts_S.new_zeros(num_experts).scatter_add_(0, experts_S, torch.ones_like(experts_S))
    share_E = counts_E / max(1, experts_TK.numel())
    mean_E = (scores_TE / scores_TE.sum(-1, keepdim=True)).mean(0)
    return num_experts * (share_E * mean_E).sum()
