"""From logits to the next token and its log-probability."""

import torch
from torch import Tensor


def allowed_logprobs(logits_BV: Tensor, never_sampled: tuple[int, ...]) -> Tensor:
    """Log-probabilities [B, V] in f32 of the policy: control tokens that only templates write have probability zero.

    Sampling and training share this function, so that both speak of the same policy.
    """
    logits = logits_BV.float().index_fill(-1, torch.tensor(never_sampled, device=logits_BV.device), float("-inf"))
    return logits.log_softmax(-1)


def pick(logprobs_V: Tensor, temperature: float, generator: torch.Generator | None) -> int:
    """A token id: the likeliest at temperature 0, else drawn from the distribution sharpened by 1 / temperature."""
    if temperature <= 0.0:
        return int(logprobs_V.argmax())
    return int(torch.multinomial((logprobs_V / temperature).softmax(-1), 1, generator=generator))
