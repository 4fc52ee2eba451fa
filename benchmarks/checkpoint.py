"""Claim: published shapes load as fast as the file is read, and run faster than in transformers on the same machine.

Random weights: nothing here depends on what they say. It takes some 18 GB of memory, 8 GB of disk and a quarter of an
hour. benchmarks/plot.py draws its times against pixels and tokens of the past.
"""

import mmap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from foveate.benchmarks.checkpoints import KIMI, QWEN, published
from foveate.benchmarks.measure import Case
from foveate.extras import from_extra
from foveate.models.cache import CachedStep, KVCache
from foveate.models.moe import MoE
from foveate.models.quantize import quantize
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript

SIDES_PX, WORDS = (252, 504, 1036), 64
LONG = 8192
"""Tokens of the long past ..."""
CONTEXTS = (2048, 32768, 131072)
"""... and of others."""
PAGE = mmap.PAGESIZE
"""Bytes."""


def cases() -> Iterator[Case]:
    """bf16: loading, a turn with a picture, single tokens after it; then the latent attention of Kimi-VL's shape.

    Raises ConfigError without transformers, before anything is written.
    """
    with from_extra("hub", "transformers, which this is measured beside,"):
        import transformers  # noqa: F401
    with published(QWEN) as folder:
        yield _load(folder)
        yield from _qwen(Thinker.from_pretrained(folder), _transformers(folder))
    with published(KIMI) as folder:
        yield from _kimi(Thinker.from_pretrained(folder))


def _qwen(thinker: Thinker, theirs: Any) -> Iterator[Case]:
    for side_px in SIDES_PX:
        yield _prefill(thinker, theirs, side_px)
    inputs = _question(thinker, SIDES_PX[-1])
    given = _given(inputs)
    moved = _read_bytes(thinker)
    shape = f"Qwen2.5-VL-3B, 1 token after {len(inputs)}"
    peers = {"transformers": _their_step(theirs, given)}
    yield Case(
        op="decode", shape=shape, dtype="bfloat16", sets=1, ours=_our_step(thinker, inputs), peers=peers, moved=moved
    )
    quantize(thinker.decoder, "int8")
    yield Case(op="decode_int8", shape=shape, dtype="int8", sets=1, ours=_our_step(thinker, inputs), peers=peers)


def _prefill(thinker: Thinker, theirs: Any, side_px: int) -> Case:
    inputs = _question(thinker, side_px)
    given = _given(inputs)
    return Case(
        op="prefill",
        shape=f"Qwen2.5-VL-3B, picture of {side_px} x {side_px} px, {len(inputs)} tokens",
        size=side_px**2,
        sets=1,
        dtype="bfloat16",
        ours=_quietly(lambda: _last_logits(thinker, inputs)),
        peers={"transformers": _quietly(lambda: theirs(**given, logits_to_keep=1, use_cache=False))},
    )


def _quietly(run: Callable[[], object]) -> Callable[[int], object]:
    """Without gradients."""
    return torch.inference_mode()(lambda _: run())


def _load(folder: Path) -> Case:
    path = folder / "model.safetensors"

    def read(_: int) -> None:
        buffer = bytearray(1 << 26)
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    return Case(
        op="load",
        shape=f"Qwen2.5-VL-3B, {path.stat().st_size / 1e9:.1f} GB",
        dtype="bfloat16",
        sets=1,
        ours=lambda _: _touched(Thinker.from_pretrained(folder)),
        peers={"transformers": lambda _: _touched(_transformers(folder)), "read": read},
    )


def _touched(model: nn.Module) -> nn.Module:
    """The same, with each page of its weights read: of a file that is mapped none was."""
    for parameter in model.parameters():
        parameter.detach().flatten().view(torch.uint8)[::PAGE].sum()
    return model


def _transformers(folder: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    return model.eval()


def _read_bytes(thinker: Thinker, past: int = 0) -> int:
    """What a token reads: the decoder without the embeddings and the experts that are not chosen, and latents."""
    decoder, config = thinker.decoder, thinker.config.decoder
    total = sum(parameter.nbytes for parameter in decoder.parameters())
    if not config.tie_embeddings:
        total -= decoder.embed.weight.nbytes
    for moe in decoder.modules():
        if isinstance(moe, MoE):
            unused = moe.config.num_experts - moe.config.top_k
            total -= sum(weights[:unused].nbytes for weights in (moe.gate_up, moe.down))
    latent = 0 if config.latent is None else config.latent.rank + config.head_dim
    return total + past * config.num_layers * latent * decoder.embed.weight.itemsize


def _question(thinker: Thinker, side_px: int) -> Transcript:
    """A picture and some words; the ids are nano's, whose vocabulary is the first part of any other."""
    pixels = np.random.default_rng(0).integers(0, 255, (side_px, side_px, 3), dtype=np.uint8)
    parts = [{"type": "image", "image": Image.fromarray(pixels)}, {"type": "text", "text": "the " * WORDS}]
    return thinker.processor([{"role": "user", "content": parts}], generate=True)


def _given(inputs: Transcript) -> dict[str, Tensor]:
    """The same as transformers takes it."""
    pad = inputs.token_ids[inputs.image_starts[0]]
    grids = torch.tensor([[image.grid.t, image.grid.h, image.grid.w] for image in inputs.images])
    pixels = torch.cat([image.patches_NP for image in inputs.images]).bfloat16()
    ids_1T = inputs.token_ids[None]
    return {
        "input_ids": ids_1T,
        "mm_token_type_ids": (ids_1T == pad).long(),
        "pixel_values": pixels,
        "image_grid_thw": grids,
    }


def _last_logits(thinker: Thinker, inputs: Transcript) -> Tensor:
    hidden_TD, _ = thinker.hidden(inputs)
    out: Tensor = thinker.decoder.head(hidden_TD[-1:])
    return out


def _our_step(thinker: Thinker, inputs: Transcript) -> Callable[[int], Tensor]:
    """One token after a conversation, over and over."""
    cache = KVCache(thinker.config.decoder, 1, thinker.decoder.embed.weight, capacity=len(inputs) + 1)
    with torch.inference_mode():
        step = CachedStep(cache, [0], [len(inputs)])
        thinker.decoder(thinker.embed(inputs.token_ids, inputs.images, inputs.image_starts), inputs.positions_3T, step)
    position = inputs.positions_3T.max() + 1
    return _token_after(thinker, cache, len(inputs), position)


def _token_after(thinker: Thinker, cache: KVCache, past: int, position: Tensor) -> Callable[[int], Tensor]:
    token, positions_31 = torch.tensor([300]), position.expand(3, 1)

    @torch.inference_mode()
    def run(_: int) -> Tensor:
        cache.lengths[0] = past
        hidden, _ = thinker.decoder(thinker.decoder.embed_text(token), positions_31, CachedStep(cache, [0], [1]))
        out: Tensor = thinker.decoder.head(hidden)
        return out

    return run


def _their_step(model: Any, given: dict[str, Tensor]) -> Callable[[int], object]:
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        model(**given, cache=cache, use_cache=True)
    return _their_token(model, cache)


def _their_token(model: Any, cache: Any) -> Callable[[int], object]:
    token = torch.tensor([[300]])

    @torch.inference_mode()
    def run(_: int) -> object:
        out = model(input_ids=token, cache=cache, use_cache=True)
        cache.crop(-1)
        return out

    return run


def _kimi(thinker: Thinker) -> Iterator[Case]:
    """The decoder alone, with text: transformers has no Kimi-VL, but its DeepSeek-V3 has the same layers."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    settings: dict[str, Any] = KIMI["text_config"]
    with torch.device("meta"):
        model: Any = DeepseekV3ForCausalLM(DeepseekV3Config(**settings)).bfloat16()
    model = model.to_empty(device="cpu").eval()
    for parameter in [*model.parameters(), *model.buffers()]:
        parameter.data.normal_(std=0.02)
    inputs = thinker.processor([{"role": "user", "content": "the " * 1000}])
    drawn_T = torch.randint(300, 1000, inputs.token_ids.shape, generator=torch.Generator().manual_seed(0))
    inputs = replace(inputs, token_ids=drawn_T)  # of one word, each token would choose the same experts
    ids = inputs.token_ids[None]
    yield Case(
        op="prefill",
        shape=f"Kimi-VL-A3B with 4 layers, {ids.shape[1]} tokens of text",
        dtype="bfloat16",
        sets=1,
        ours=_quietly(lambda: _last_logits(thinker, inputs)),
        peers={"transformers": _quietly(lambda: model(input_ids=ids, logits_to_keep=1, use_cache=False))},
    )
    for past in (LONG, *CONTEXTS):
        cache = KVCache(thinker.config.decoder, 1, thinker.decoder.embed.weight, capacity=past + 1)
        cache.k.normal_()
        yield Case(
            op="decode_8k" if past == LONG else "decode",
            shape=f"Kimi-VL-A3B with 4 layers, 1 token after {past}",
            size=past,
            sets=1,
            rounds=1 if past > LONG else 3,
            dtype="bfloat16",
            ours=_token_after(thinker, cache, past, torch.tensor(past)),
            peers={"transformers": _their_token(model, _past(model, past))},
            moved=_read_bytes(thinker, past),
        )


def _past(model: Any, length: int) -> Any:
    """A cache of transformers that holds latents of so many tokens."""
    from transformers import DynamicCache

    config, cache = model.config, DynamicCache(config=model.config)
    for layer in range(config.num_hidden_layers):
        latents, turned = (
            torch.randn(1, 1, length, width).bfloat16() for width in (config.kv_lora_rank, config.qk_rope_head_dim)
        )
        cache.update(latents, turned, layer)
    return cache
