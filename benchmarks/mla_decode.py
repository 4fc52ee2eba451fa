"""A token of latent attention beside folded torch, beside transformers and vLLM: from queries to values of each head.

Ours, folded torch and vLLM multiply queries and results by the absorbed projections; transformers keeps latents too and
expands all of them by the same projections for each token. The aim is the floor, reading latents and projections once.
"""

from collections.abc import Callable, Iterator
from itertools import count

import torch
from torch import Tensor

from foveate.benchmarks import vllm_peer
from foveate.benchmarks.measure import Case, Run
from foveate.benchmarks.peers import has_transformers, one_token
from foveate.models.latent import LatentQueries
from foveate.ops import decode_attention

HEADS, LATENT, ROTATED, PLAIN, VALUE, CONTEXT = 16, 512, 64, 128, 128, 4096
HELD = 64 * CONTEXT
"""Tokens of all caches: more than any processor's own memory holds ..."""
LAYERS = 27
"""... as are the projections of DeepSeek-V2-Lite's layers."""


def cases() -> Iterator[Case]:
    """bf16, one conversation, DeepSeek-V2-Lite's sizes."""
    yield case(CONTEXT)


def case(context: int) -> Case:
    """A token after so many."""
    width, caches = LATENT + ROTATED, max(1, HELD // context)
    cache = torch.randn(caches, context, 1, width).bfloat16()
    up = torch.randn(LAYERS, HEADS, PLAIN + VALUE, LATENT).mul(LATENT**-0.5).bfloat16()
    layers = [LatentQueries(torch.randn(1, HEADS, PLAIN + ROTATED).bfloat16(), up_HER, PLAIN) for up_HER in up]
    scale, lengths, turn = layers[0].scale, torch.tensor([context]), count()

    def absorbing(attend: Callable[[Tensor, int], Tensor]) -> Run:
        """The next layer's queries over the next cache: into the space of latents, and out of it."""

        def run(_: int) -> Tensor:
            number = next(turn)
            queries = layers[number % LAYERS]
            return queries.values(attend(queries.absorbed(), number % caches))

        return run

    def ours(q_BHD: Tensor, slot: int) -> Tensor:
        latents = cache[..., :LATENT]
        return decode_attention(q_BHD, cache, latents, torch.tensor([slot]), lengths, context, scale)

    def folded(q_BHD: Tensor, slot: int) -> Tensor:
        latents = cache[slot, :, 0]
        return (q_BHD @ latents.T * scale).softmax(-1) @ latents[:, :LATENT]

    peers: dict[str, Run] = {"torch": absorbing(folded)}
    if has_transformers():
        attend = one_token(HEADS, HEADS, scale)

        def expanded(_: int) -> Tensor:
            number = next(turn)
            return by_expansion(layers[number % LAYERS], cache[number % caches, :, 0], attend)

        peers["transformers"] = expanded
    if vllm_peer.has_vllm():
        peers["vllm"] = absorbing(vllm_peer.latents_of(cache[:, :, 0], LATENT, scale))
    return Case(
        op="mla_decode",
        shape=f"1 token over {context}, {HEADS} heads, latents of {LATENT}+{ROTATED}, absorbed projections included",
        size=context,
        dtype="bfloat16",
        ours=absorbing(ours),
        peers=peers,
        flops=2 * HEADS * (context * (width + LATENT) + LATENT * (PLAIN + VALUE)),
        moved=2 * (context * width + up[0].numel()),
    )


def by_expansion(
    queries: LatentQueries, latents_CD: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """What transformers does with a conversation's latents [C, 512 + 64]."""
    both_CHE = (latents_CD[:, :LATENT] @ queries.up_HER.flatten(0, 1).T).unflatten(-1, (HEADS, -1))
    k_plain, v_CHE = both_CHE.split((PLAIN, VALUE), dim=-1)
    k_CHD = torch.cat([k_plain, latents_CD[:, None, LATENT:].expand(-1, HEADS, -1)], dim=-1)
    return attend(queries.q_THD, *(x.transpose(0, 1)[None] for x in (k_CHD, v_CHE)))
