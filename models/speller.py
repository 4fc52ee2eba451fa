"""A projector that also speaks: what a merged token spells and shows, in the decoder's own embeddings.

A decoder that gets only features of its own kind from the tower has to learn for every character, in every place of a
token, what it looks like; one that gets the characters as embeddings it already writes with has to learn each place
once. So a few places of each token hold one character or one word each: a softmax over them, read back as the mean of
their embeddings (Ovis, Lu et al., arXiv 2405.20797, with the decoder's table in place of one of its own), turned by a
matrix that tells the place. It is added to the projector's output. What is said is learned from labels alone: no
gradient comes back from the decoder, which would rather bend the few words it reads now (docs/log.md).

Shape letters: M merged tokens, E decoder width, V vocabulary, S places, C characters or words.
"""

import torch
from torch import Tensor, nn


class Speller(nn.Module):
    """Logits of what stands in each place, and what that adds to a token."""

    def __init__(self, places: int, tokens: tuple[int, int], width: int) -> None:
        """`tokens` are the first and the end of the ids of what can be said."""
        super().__init__()
        self.places, self.tokens = places, tokens
        self.head = nn.Linear(width, places * (1 + tokens[1] - tokens[0]))
        self.turns = nn.Parameter(torch.empty(places, width, width))
        for turn_EE in self.turns.detach():
            nn.init.orthogonal_(turn_EE)

    def forward(self, tokens_ME: Tensor, embeddings_VE: Tensor) -> Tensor:
        """What is said of each token in the decoder's embeddings, [M, E]; class 0 of a place says nothing."""
        logits_MSC = self.head(tokens_ME).unflatten(-1, (self.places, -1))
        chances_MSC = logits_MSC.float().softmax(-1)[..., 1:].to(tokens_ME.dtype).detach()
        turned_SCE = embeddings_VE[self.tokens[0] : self.tokens[1]] @ self.turns
        return chances_MSC.flatten(1) @ turned_SCE.flatten(0, 1)
