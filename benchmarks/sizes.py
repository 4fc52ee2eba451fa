"""Every operation from small to large, for the picture that benchmarks/plot.py draws; bf16 throughout."""

from collections.abc import Iterator

import torch

from foveate.benchmarks import (
    decoder_attention,
    full_attention,
    gqa_decode,
    linear,
    mla_decode,
    moe_prefill,
    window_core,
    window_layer,
)
from foveate.benchmarks.experts import matrices
from foveate.benchmarks.measure import Case

SIDES = (16, 32, 74, 148)
"""Patches of a side: from a picture of 224 px to one of 2072 px."""
PROMPTS = (1, 4, 16, 64, 256, 1024)
CONTEXTS = (512, 2048, 8192, 32768, 131072)
TRAINED = (256, 1024, 4096)
"""Tokens of one conversation, with gradients."""


def cases() -> Iterator[Case]:
    """Windows, whole pictures, experts, one new token after a growing past, and a conversation with gradients."""
    for side in SIDES:
        yield window_core.case(side, torch.bfloat16)
        yield window_layer.case(side)
    yield from map(full_attention.case, SIDES[:-1])
    gate_up, down = matrices()
    for num_tokens in PROMPTS:
        yield moe_prefill.case(num_tokens, gate_up, down)
    layers = linear.matrices()
    for num_tokens in PROMPTS:
        yield linear.case(num_tokens, layers)
    for context in CONTEXTS:
        yield gqa_decode.case(context)
        yield mla_decode.case(context)
    for num_tokens in TRAINED:
        yield decoder_attention.case([num_tokens])
