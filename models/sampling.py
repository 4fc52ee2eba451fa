"""From logits to the next token and its log-probability."""

import torch
from torch import Tensor

from foveate.models.config import ThinkerConfig

COLDEST = 1e-6
"""Below it f32 has no room for the quotient of a log-probability, and the likeliest is drawn anyway."""


def allowed_logprobs(logits_BV: Tensor, never_sampled: tuple[int, ...]) -> Tensor:
    """Log-probabilities [B, V] in f32 of the policy: control tokens that only templates write have probability zero.

    Sampling and training share this function, so that both speak of the same policy.
    """
    logits = logits_BV.float().index_fill(-1, torch.tensor(never_sampled, device=logits_BV.device), float("-inf"))
    return logits.log_softmax(-1)


def penalized(logits_V: Tensor, held_V: Tensor, penalty: float) -> Tensor:
    """Logits in f32, less for tokens that a conversation holds: divided by the penalty, those below zero multiplied.

    As transformers does (Keskar et al., arXiv 1909.05858), before anything else.
    """
    logits_V = logits_V.float()
    lower_V = torch.where(logits_V < 0, logits_V * penalty, logits_V / penalty)
    return torch.where(held_V, lower_V, logits_V)


def pick(logprobs_V: Tensor, temperature: float, generator: torch.Generator | None, config: ThinkerConfig) -> int:
    """A token id: the likeliest at temperature 0, or nearly 0, else drawn from `drawn_from`."""
    if temperature < COLDEST:
        return int(logprobs_V.argmax())
    return int(torch.multinomial(drawn_from(logprobs_V, temperature, config), 1, generator=generator))


def drawn_from(logprobs_V: Tensor, temperature: float, config: ThinkerConfig) -> Tensor:
    """Probabilities [V] sharpened by 1 / temperature, cut to top_k, then to top_p: the order of transformers."""
    scaled_V = logprobs_V / temperature
    if 0 < config.top_k < len(scaled_V):
        scaled_V = scaled_V.masked_fill(scaled_V < scaled_V.topk(config.top_k).values[-1], float("-inf"))
    chances_V = scaled_V.softmax(-1)
    if config.top_p < 1.0:
        sorted_V, order_V = chances_V.sort(descending=True)
        spare_V = sorted_V.cumsum(-1) - sorted_V >= config.top_p
        chances_V = chances_V.index_fill(-1, order_V[spare_V], 0.0)
    return chances_V
