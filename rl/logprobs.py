"""What a policy says of the tokens that it wrote.

Only tokens that the policy itself sampled count: users, tools, images and templates are given. Sampling and training
share `allowed_logprobs`, so that both speak of the same policy.

Shape letters: T tokens, D width, V vocabulary, S tokens that the policy wrote, B conversations.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from foveate.models.branches import hidden_states
from foveate.models.sampling import allowed_logprobs
from foveate.models.seen import SeenImages
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript

AT_ONCE = 1 << 27
"""Numbers of tokens times words: more are computed in parts, and again for the gradient, which would keep several."""


def choices(thinker: Thinker, hidden_TD: Tensor, transcript: Transcript) -> tuple[Tensor, Tensor]:
    """At each place where the policy wrote: log-probabilities [S, V] of what it could write, and what it did write [S].

    `hidden_TD` are the thinker's hidden states of the transcript.
    """
    before_SD, ids_S = _written(hidden_TD, transcript)
    return _logprobs(thinker, before_SD), ids_S


def written_logprobs(thinker: Thinker, transcript: Transcript, see: SeenImages | None = None) -> Tensor:
    """Log-probability [S] of each token that the policy wrote, in f32, with a gradient where one is wanted.

    What neighbouring conversations begin with alike is computed once. `see` if the tower need not run.
    """
    before_SD, ids_S = _written(hidden_states(thinker, transcript, see), transcript)
    rows = max(1, AT_ONCE // thinker.config.decoder.vocab_size)
    if len(ids_S) <= rows:
        return _chosen(thinker, before_SD, ids_S)
    parts = zip(before_SD.split(rows), ids_S.split(rows), strict=True)
    return torch.cat([checkpoint(_chosen, thinker, *part, use_reentrant=False) for part in parts])


def _written(hidden_TD: Tensor, transcript: Transcript) -> tuple[Tensor, Tensor]:
    """The state before each token that the policy wrote, and its id."""
    places_S = torch.nonzero(transcript.by_policy_T)[:, 0].to(hidden_TD.device)
    return hidden_TD[places_S - 1], transcript.token_ids.to(hidden_TD.device)[places_S]


def _chosen(thinker: Thinker, before_SD: Tensor, ids_S: Tensor) -> Tensor:
    return _logprobs(thinker, before_SD).gather(-1, ids_S[:, None])[:, 0]


def _logprobs(thinker: Thinker, before_SD: Tensor) -> Tensor:
    return allowed_logprobs(thinker.decoder.head(before_SD), thinker.processor.codec.never_sampled)


def conversation_of(transcript: Transcript) -> Tensor:
    """Which packed conversation each token that the policy wrote belongs to, [S]."""
    lengths_B = torch.tensor(transcript.lengths)
    return torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B)[transcript.by_policy_T]


def summed(values_S: Tensor, conversation_S: Tensor, count: int) -> Tensor:
    """Sums [B] over each conversation's tokens; zero where it has none."""
    zeros_B = values_S.new_zeros(count)
    return zeros_B.index_add(0, conversation_S.to(values_S.device), values_S)
