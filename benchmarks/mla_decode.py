"""Latent attention from its latents beside folded torch, beside transformers and vLLM.

Transformers keeps latents too and expands all of them for each token. The aim is the floor, reading the latents once.
"""

from collections.abc import Callable, Iterator
from itertools import count

import torch
from torch import Tensor

from foveate.benchmarks import vllm_peer
from foveate.benchmarks.measure import Case, Run
from foveate.benchmarks.peers import has_transformers, one_token
from foveate.ops import decode_attention

HEADS, LATENT, ROTATED, PLAIN, VALUE, CONTEXT = 16, 512, 64, 128, 128, 4096
HELD = 64 * CONTEXT
"""Tokens of all caches: more than any processor's own memory holds."""
SCALE = (PLAIN + ROTATED) ** -0.5


def cases() -> Iterator[Case]:
    """bf16, one conversation, DeepSeek-V2-Lite's sizes; ours and folded torch with absorbed projections."""
    yield case(CONTEXT)


def case(context: int) -> Case:
    """A token after so many."""
    width, caches = LATENT + ROTATED, max(1, HELD // context)
    cache = torch.randn(caches, context, 1, width).bfloat16()
    q_absorbed = torch.randn(1, HEADS, width).bfloat16()
    lengths, turn = torch.tensor([context]), count()

    def ours(_: int) -> Tensor:
        slot = torch.tensor([next(turn) % caches])
        return decode_attention(q_absorbed, cache, cache[..., :LATENT], slot, lengths, context, SCALE)

    def folded(_: int) -> Tensor:
        latents = cache[next(turn) % caches, :, 0]
        out_HD: Tensor = (q_absorbed[0] @ latents.T * SCALE).softmax(-1) @ latents[:, :LATENT]
        return out_HD

    peers: dict[str, Run] = {"torch": folded}
    if has_transformers():
        expanded = by_expansion()
        peers["transformers"] = lambda _: expanded(cache[next(turn) % caches, :, 0])
    if vllm_peer.has_vllm():
        by_vllm = vllm_peer.latents_of(cache[:, :, 0], LATENT, SCALE)
        peers["vllm"] = lambda _: by_vllm(q_absorbed, next(turn) % caches)
    return Case(
        op="mla_decode",
        shape=f"1 token over {context}, {HEADS} heads, latents of {LATENT}+{ROTATED}, projections left out",
        size=context,
        dtype="bfloat16",
        ours=ours,
        peers=peers,
        moved=context * width * 2,
    )


def by_expansion() -> Callable[[Tensor], Tensor]:
    """What transformers does with a conversation's latents [C, 512 + 64]."""
    q_BHD = torch.randn(1, HEADS, PLAIN + ROTATED).bfloat16()
    expand = torch.randn(HEADS * (PLAIN + VALUE), LATENT).mul(LATENT**-0.5).bfloat16()
    attend = one_token(HEADS, HEADS, SCALE)

    def run(latents_CD: Tensor) -> Tensor:
        k_plain, v_CHE = (latents_CD[:, :LATENT] @ expand.T).unflatten(-1, (HEADS, -1)).split((PLAIN, VALUE), dim=-1)
        k_CHD = torch.cat([k_plain, latents_CD[:, None, LATENT:].expand(-1, HEADS, -1)], dim=-1)
        return attend(q_BHD, *(x.transpose(0, 1)[None] for x in (k_CHD, v_CHE)))

    return run
