"""Losses of what attention is asked for (foveate.rl.lessons.looks): where heads look, and what they bring.

Shape letters: T tokens, H heads, G key heads, D head dimension, P looks, B conversations, C of them together, Q tokens
that look, L tokens of a conversation, U tokens of all of them that look, M image tokens, S characters of a merged
token, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.models.decoder import Decoder, DecoderBlock
from foveate.models.tokenizer import TextCodec
from foveate.rl.lessons.looks import watched_heads
from foveate.rl.lessons.pages import CHARACTERS

REST_WEIGHT = 0.3
"""Of the heads that rest, beside those that look."""


class Search(NamedTuple):
    """What some conversations of a pack are asked for: C of them, of each at most Q tokens that look and L keys."""

    queries_CQ: Tensor
    """The tokens, as indices of the pack; a conversation with fewer has its first one in their place."""
    keys_CL: Tensor
    """The keys likewise; those behind the end of a shorter conversation are later than all that looks."""
    heads_H: Tensor
    wanted_W: Tensor
    """Where to look: places in [C, H, Q, L] flattened. Of a head that is asked nothing, the first key."""
    looking_R: Tensor
    """Heads that look: places in [C, H, Q] flattened."""
    resting_R: Tensor
    """Heads that rest, likewise."""

    def to(self, device: torch.device) -> "Search":
        """The same on a device."""
        return Search(*(x.to(device) for x in self))


def searches(looks_3P: Tensor, lengths: Sequence[int], together: int) -> list[Search]:
    """The looks of a pack for gaze_loss, `together` conversations of about one length at a time.

    Each is padded to the longest: many together are few calls, for a GPU; one alone has no padding, for a processor.
    """
    if not looks_3P.numel():
        return []
    lengths_B = torch.tensor(lengths)
    starts_B = lengths_B.cumsum(0) - lengths_B
    conversation_P = torch.searchsorted(starts_B, looks_3P[0].contiguous(), right=True) - 1
    looking = conversation_P.unique()
    parts = looking[lengths_B[looking].argsort()].split(together)
    part_B = torch.zeros_like(lengths_B)
    for number, part_C in enumerate(parts):
        part_B[part_C] = number
    part_P, order_P = part_B[conversation_P].sort()
    counts = torch.bincount(part_P, minlength=len(parts)).tolist()
    some = looks_3P[:, order_P].split(counts, dim=1)
    return [
        _search(own_3P.contiguous(), starts_B[part_C], int(lengths_B[part_C].max()))
        for own_3P, part_C in zip(some, parts, strict=True)
    ]


def _search(looks_3P: Tensor, starts_C: Tensor, longest: int) -> Search:
    """The search for all looks of conversations that start there."""
    starts_C = starts_C.sort().values
    tokens_U, token_P = looks_3P[0].unique(return_inverse=True)
    heads_H, head_P = looks_3P[1].unique(return_inverse=True)
    row_U = torch.searchsorted(starts_C, tokens_U, right=True) - 1
    counts_C = torch.bincount(row_U, minlength=len(starts_C))
    column_U = torch.arange(len(tokens_U)) - (counts_C.cumsum(0) - counts_C)[row_U]
    queries_CQ = starts_C[:, None].repeat(1, int(counts_C.max()))
    queries_CQ[row_U, column_U] = tokens_U
    row_P, shape = row_U[token_P], (len(starts_C), len(heads_H), queries_CQ.shape[1])
    head_of_P = (row_P * shape[1] + head_P) * shape[2] + column_U[token_P]
    key_P = (looks_3P[2] - starts_C[row_P]).clamp_min(0)
    asked, rests = (torch.zeros(shape, dtype=torch.bool).flatten() for _ in range(2))
    asked[head_of_P] = True
    rests[head_of_P[key_P == 0]] = True
    return Search(
        queries_CQ=queries_CQ,
        keys_CL=starts_C[:, None] + torch.arange(longest),
        heads_H=heads_H,
        wanted_W=torch.cat([head_of_P * longest + key_P, torch.nonzero(~asked)[:, 0] * longest]),
        looking_R=torch.nonzero(asked & ~rests)[:, 0],
        resting_R=torch.nonzero(rests)[:, 0],
    )


def gaze_loss(q_THD: Tensor, k_TGD: Tensor, asked: Sequence[Search]) -> Tensor:
    """Mean over heads that look of -log(attention where they should look), plus REST_WEIGHT that of those that rest.

    To rest is to look at the conversation's first token; a key before that, as RESTING is in a pack, means it too.
    """
    share = q_THD.shape[1] // k_TGD.shape[1]
    queries = _picked(q_THD, [(search.queries_CQ, search.heads_H) for search in asked])
    keys = _picked(k_TGD, [(search.keys_CL.clamp_max(len(k_TGD) - 1), search.heads_H // share) for search in asked])
    missed = [_missed(q_CHQD, k_CHLD, search) for q_CHQD, k_CHLD, search in zip(queries, keys, asked, strict=True)]
    looking, resting = zip(*missed, strict=True) if missed else ((), ())
    means = [torch.cat(some).mean() for some in (looking, resting) if sum(map(len, some))]
    none = q_THD.new_zeros((), dtype=torch.float32)
    return sum((weight * mean for weight, mean in zip((1.0, REST_WEIGHT), means, strict=False)), none)


def _missed(q_CHQD: Tensor, k_CHLD: Tensor, search: Search) -> tuple[Tensor, Tensor]:
    """-log of the attention on the wanted keys, for each head of a token that looks, and for each that rests."""
    later_C1QL = (search.keys_CL[:, None] > search.queries_CQ[:, :, None])[:, None]
    scores_CHQL = (q_CHQD @ k_CHLD.mT).float() * q_CHQD.shape[-1] ** -0.5
    scores_CHQL = scores_CHQL.masked_fill(later_C1QL, float("-inf"))
    elsewhere = torch.ones(scores_CHQL.numel(), dtype=torch.bool, device=scores_CHQL.device)
    elsewhere_CHQL = elsewhere.index_fill_(0, search.wanted_W, False).view_as(scores_CHQL)
    there_CHQ = scores_CHQL.masked_fill(elsewhere_CHQL, float("-inf")).logsumexp(-1)
    missed = (scores_CHQL.logsumexp(-1) - there_CHQ).flatten()
    return missed[search.looking_R], missed[search.resting_R]


def _picked(x_THD: Tensor, wanted: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """For each pair of tokens [C, N] and heads [H] those heads of those tokens, [C, H, N, D], all by one gather."""
    places = [tokens_CN[:, None] * x_THD.shape[1] + heads_H[:, None] for tokens_CN, heads_H in wanted]
    if not places:
        return []
    rows = x_THD.flatten(0, 1).index_select(0, torch.cat([index_CHN.flatten() for index_CHN in places]))
    some = zip(rows.split([index_CHN.numel() for index_CHN in places]), places, strict=True)
    return [rows_SD.view(*index_CHN.shape, -1) for rows_SD, index_CHN in some]


def characters_as_tokens(codec: TextCodec) -> Tensor:
    """The token of each class of character, -100 where it has none of its own (class 0, nothing, and "€")."""
    spelled = [codec.encode(character) for character in CHARACTERS]
    return torch.tensor([-100, *(ids[0] if len(ids) == 1 else -100 for ids in spelled)])


def brought_loss(
    decoder: Decoder, layer: int, v_MGD: Tensor, spelled_MS: Tensor, token_of_class: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy of the s-th character of image tokens, read from what head s of a layer would bring of each.

    `spelled_MS` holds classes of characters as Spelling does. Returns also the share that is right, None without any
    character.
    """
    block = cast(DecoderBlock, decoder.blocks[layer])
    proj_EHD = block.attn.proj.weight.unflatten(1, (decoder.config.num_heads, -1))
    heads, device = watched_heads(decoder.config), v_MGD.device
    tokens_SM = token_of_class[spelled_MS[:, : len(heads)].clamp_min(0)].T
    place_N, row_N = torch.nonzero(tokens_SM >= 0, as_tuple=True)
    if not len(row_N):
        return v_MGD.new_zeros((), dtype=torch.float32), None
    values_ND = v_MGD.flatten(0, 1).index_select(0, (row_N * v_MGD.shape[1] + place_N).to(device))
    counts = torch.bincount(place_N, minlength=len(heads)).tolist()
    brought = [some @ proj_EHD[:, head].T for some, head in zip(values_ND.split(counts), heads, strict=True)]
    wanted_N = tokens_SM[place_N, row_N].to(device)
    logits_NV = decoder.head(decoder.norm(torch.cat(brought))).float()
    return F.cross_entropy(logits_NV, wanted_N), (logits_NV.detach().argmax(-1) == wanted_N).float().mean()
