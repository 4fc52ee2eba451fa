"""What a policy says of the tokens that it wrote.

Only tokens that the policy itself sampled count: users, tools, images and templates are given. Sampling and training
share `allowed_logprobs`, so that both speak of the same policy.

Shape letters: T tokens, D width, V vocabulary, S tokens that the policy wrote, B conversations.
"""

import torch
from torch import Tensor

from foveate.models.branches import hidden_states
from foveate.models.sampling import allowed_logprobs
from foveate.models.seen import SeenImages
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript


def choices(thinker: Thinker, hidden_TD: Tensor, transcript: Transcript) -> tuple[Tensor, Tensor]:
    """At each place where the policy wrote: log-probabilities [S, V] of what it could write, and what it did write [S].

    `hidden_TD` are the thinker's hidden states of the transcript.
    """
    places_S = torch.nonzero(transcript.by_policy_T)[:, 0].to(hidden_TD.device)
    logits_SV = thinker.decoder.head(hidden_TD[places_S - 1])
    logprobs_SV = allowed_logprobs(logits_SV, thinker.processor.codec.never_sampled)
    return logprobs_SV, transcript.token_ids.to(hidden_TD.device)[places_S]


def written_logprobs(thinker: Thinker, transcript: Transcript, see: SeenImages | None = None) -> Tensor:
    """Log-probability [S] of each token that the policy wrote, in f32, with a gradient where one is wanted.

    What neighbouring conversations begin with alike is computed once. `see` if the tower need not run.
    """
    hidden_TD = hidden_states(thinker, transcript, see)
    logprobs_SV, ids_S = choices(thinker, hidden_TD, transcript)
    return logprobs_SV.gather(-1, ids_S[:, None])[:, 0]


def conversation_of(transcript: Transcript) -> Tensor:
    """Which packed conversation each token that the policy wrote belongs to, [S]."""
    lengths_B = torch.tensor(transcript.lengths)
    return torch.repeat_interleave(torch.arange(len(lengths_B)), lengths_B)[transcript.by_policy_T]


def summed(values_S: Tensor, conversation_S: Tensor, count: int) -> Tensor:
    """Sums [B] over each conversation's tokens; zero where it has none."""
    zeros_B = values_S.new_zeros(count)
    return zeros_B.index_add(0, conversation_S.to(values_S.device), values_S)
