"""Softmax attention inside each sequence of a packed batch, by itself or from a projection whose heads it also turns.

Sequences (windows, images, conversations) lie one after another without padding. The native kernels take all of them in
one call, of whatever lengths. Plain PyTorch runs where they do not serve: neighbours of equal length form a run, a run
is a view of shape [count, length], and each run is one call of scaled_dot_product_attention that moves no data. On a
GPU our kernel serves windows; long sequences are one call of torch's flash attention.

Shape letters: T tokens, C tokens that are seen where not all have queries, H heads, G key heads, D head dimension, B
sequences of a run, L their length.
"""

from functools import lru_cache
from itertools import accumulate, groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from foveate.ops.native import (
    Context,
    are_evened,
    has_tiles,
    is_native,
    is_new_enough,
    is_served,
    once,
    torch_has_tiles,
    wants_gradient,
)
from foveate.ops.rope import Tables, rotate

CUDA_HEADS = frozenset({16, 32, 64, 72, 80, 96, 128})
"""Sizes of heads that the kernel for GPUs takes."""
CUDA_LONGEST = 1024
"""Up to this length it is used: it attends in tiles of 64 rows, which long sequences do not fill a GPU with."""
FLASH_MULTIPLE, FLASH_LARGEST = 8, 256
"""Sizes of heads that torch's flash attention takes, called as here."""
SHORT = 64
"""Up to this length plain products are faster than the fused attention of torch's CPU build, above all backward."""


class Packing:
    """The lengths of the sequences of a packed batch, and its runs of neighbours of equal length."""

    def __init__(self, lengths: list[int]) -> None:
        """`lengths` of the sequences in order; empty sequences are allowed."""
        self.lengths = lengths
        self.runs = [(length, len(list(same))) for length, same in groupby(length for length in lengths if length)]
        self.run_sizes = [length * count for length, count in self.runs]
        self.longest = max(lengths, default=0)
        self._ends: dict[torch.device, Tensor] = {}

    def ends(self, device: torch.device) -> Tensor:
        """Where each sequence begins and the last one ends, [count + 1] int32, on a device."""
        if device not in self._ends:
            ends = list(accumulate(self.lengths, initial=0))
            with torch.inference_mode(False):  # a gradient may be wanted of whoever comes next
                self._ends[device] = torch.tensor(ends, dtype=torch.int32, device=device)
        return self._ends[device]


def packed_attention(
    q_THD: Tensor,
    k_CGD: Tensor,
    v_CGD: Tensor,
    packing: Packing,
    *,
    causal: bool = False,
    queries: Packing | None = None,
) -> Tensor:
    """Softmax attention inside each packed sequence, [T, H, D] -> [T, H, D].

    Args:
        q_THD: bf16 or f32; f64 runs plain PyTorch.
        k_CGD: of q's dtype; G divides H, and neighbouring query heads share a key head.
        v_CGD: as k_CGD.
        packing: lengths of the sequences, whose sum is C.
        causal: a token sees itself and those before it in its sequence.
        queries: how many of each sequence's tokens have queries, the last ones, T together; all unless given.

    Raises:
        ValueError: the packings do not hold C and T tokens, or a sequence has more queries than tokens.
    """
    asked = queries or packing
    _check_packing(packing, len(k_CGD))
    _check_packing(asked, len(q_THD))
    if queries is not None:
        _check_queries(queries.lengths, packing.lengths)
    if _is_ours(q_THD) and not are_evened(q_THD, k_CGD, v_CGD):
        ends, query_ends = packing.ends(q_THD.device), asked.ends(q_THD.device)
        out_THD: Tensor = torch.ops.foveate.packed_attention(q_THD, k_CGD, v_CGD, ends, query_ends, causal)[0]
        return out_THD
    if _is_flash(q_THD) and len(q_THD) and not are_evened(q_THD, k_CGD, v_CGD):
        return _flash_attention(q_THD, k_CGD, v_CGD, packing, asked, causal)
    if queries is not None:
        return _plain_ends(q_THD, k_CGD, v_CGD, packing, queries, causal)
    return _plain_attention(q_THD, k_CGD, v_CGD, packing, causal)


def prefix_attention(q_THD: Tensor, k_CGD: Tensor, v_CGD: Tensor) -> Tensor:
    """Causal attention of the last T of a sequence's C tokens over all of them, [T, H, D]; see packed_attention."""
    return packed_attention(q_THD, k_CGD, v_CGD, _alone(len(k_CGD)), causal=True, queries=_alone(len(q_THD)))


@lru_cache(128)
def _alone(length: int) -> Packing:
    """One sequence; the same for all layers, because its ends on a GPU are waited for."""
    return Packing([length])


def window_attention(qkv_TC: Tensor, tables: Tables, packing: Packing, num_heads: int) -> Tensor:
    """Attention inside windows over a packed projection: split, turn queries and keys, attend, merge.

    Args:
        qkv_TC: [T, 3 * num_heads * D], bf16 or f32: all queries' heads, then the keys', then the values'.
        tables: cosines and sines [T, D/2], f32.
        packing: lengths of the windows, whose sum is T.
        num_heads: of queries and keys alike.

    Returns:
        [T, num_heads * D] in qkv's dtype.

    Raises:
        ValueError: the packing does not hold T tokens.
    """
    _check_packing(packing, len(qkv_TC))
    on_gpu = packing.longest <= CUDA_LONGEST and qkv_TC.shape[1] // (3 * num_heads) in CUDA_HEADS
    if _is_ours(qkv_TC, cuda=on_gpu) and not wants_gradient(*tables):
        cos_TF, sin_TF = (table.float().contiguous() for table in tables)
        ends = packing.ends(qkv_TC.device)
        out_TC: Tensor = torch.ops.foveate.window_attention(qkv_TC.contiguous(), cos_TF, sin_TF, ends, num_heads)[0]
        return out_TC
    qk, v = qkv_TC.unflatten(-1, (3 * num_heads, -1)).split((2 * num_heads, num_heads), dim=1)
    q, k = rotate(qk, tables).chunk(2, dim=1)
    return packed_attention(q, k, v, packing).flatten(1)


def _check_packing(packing: Packing, num_tokens: int) -> None:
    if sum(packing.run_sizes) != num_tokens:
        raise ValueError(
            f"the packing holds {sum(packing.run_sizes)} tokens, the batch {num_tokens}; they must be equal"
        )


def _check_queries(queries: list[int], tokens: list[int]) -> None:
    if len(queries) != len(tokens) or any(few > all_ for few, all_ in zip(queries, tokens, strict=True)):
        raise ValueError(f"got {queries} queries for sequences of {tokens} tokens; each token has at most one")


def _is_ours(x: Tensor, *, cuda: bool = False) -> bool:
    """Whether our kernel attends; torch's does where it alone uses tiles of AMX."""
    return is_served(x, cuda=cuda) and (has_tiles() or not torch_has_tiles(x))


def _is_flash(q_THD: Tensor) -> bool:
    """Whether torch's flash attention serves: on a GPU from Ampere on, in half precision, in heads that it takes."""
    dim, half = q_THD.shape[-1], q_THD.dtype in {torch.bfloat16, torch.float16}
    fits = half and dim % FLASH_MULTIPLE == 0 and dim <= FLASH_LARGEST
    return q_THD.is_cuda and fits and is_new_enough(q_THD.device.index)


def _plain_attention(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, packing: Packing, causal: bool) -> Tensor:
    grouped = k_TGD.shape[1] != q_THD.shape[1]
    outputs = []
    parts = zip(*(x.split(packing.run_sizes) for x in (q_THD, k_TGD, v_TGD)), strict=True)
    for (length, count), qkv in zip(packing.runs, parts, strict=True):
        q, k, v = (x.unflatten(0, (count, length)).transpose(1, 2) for x in qkv)
        if length <= SHORT and not causal and not grouped:
            out_BHLD = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v
        else:
            out_BHLD = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
        outputs.append(out_BHLD.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs) if outputs else q_THD


def _plain_ends(
    q_THD: Tensor, k_CGD: Tensor, v_CGD: Tensor, packing: Packing, queries: Packing, causal: bool
) -> Tensor:
    """The same where only the last tokens have queries, one sequence after another."""
    outputs = [q_THD[:0]]
    parts = zip(q_THD.split(queries.lengths), *(x.split(packing.lengths) for x in (k_CGD, v_CGD)), strict=True)
    for qkv in parts:
        q, k, v = (x.transpose(0, 1)[None] for x in qkv)
        past = k.shape[2] - q.shape[2]
        mask = q.new_ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(past) if causal and past else None
        out_1HTD = scaled_dot_product_attention(q, k, v, mask, is_causal=causal and not past, enable_gqa=True)
        outputs.append(out_1HTD[0].transpose(0, 1))
    return torch.cat(outputs)


def _flash_attention(
    q_THD: Tensor, k_CGD: Tensor, v_CGD: Tensor, packing: Packing, queries: Packing, causal: bool
) -> Tensor:
    """The same on a GPU in half precision; what torch.nn.attention.varlen calls, whose arguments change by version.

    Its causal mask ends in the lower right corner, as ours does where there are fewer queries than tokens.
    """
    flash = torch.ops.aten._flash_attention_forward  # noqa: SLF001
    ends, query_ends = packing.ends(q_THD.device), queries.ends(q_THD.device)
    qkv = (x.contiguous() for x in (q_THD, k_CGD, v_CGD))
    out_THD: Tensor = flash(*qkv, query_ends, ends, queries.longest, packing.longest, 0.0, causal, False)[0]
    return out_THD


def _fake_packed(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor, query_ends: Tensor, causal: bool
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty((2, q.shape[1], q.shape[0]), dtype=torch.float32)


def _fake_packed_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, query_ends: Tensor, causal: bool, out: Tensor,
    stats: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


class _PackedContext(Context, Protocol):
    causal: bool


class _WindowContext(Context, Protocol):
    num_heads: int


def _save_packed(ctx: _PackedContext, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ends, query_ends, ctx.causal = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, ends, query_ends, *output)


@once
def _packed_gradient(
    ctx: _PackedContext, grad_out: Tensor | None, _grad_stats: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
    if grad_out is None:
        return None, None, None, None, None, None
    q, k, v, ends, query_ends, out, stats = ctx.saved_tensors
    grads = torch.ops.foveate.packed_attention_backward(grad_out, q, k, v, ends, query_ends, ctx.causal, out, stats)
    return (*grads, None, None, None)


def _fake_window(qkv: Tensor, cos: Tensor, sin: Tensor, ends: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    tokens, width = qkv.shape
    return qkv.new_empty((tokens, width // 3)), qkv.new_empty((2, num_heads, tokens), dtype=torch.float32)


def _fake_window_backward(
    grad_out: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, ends: Tensor, num_heads: int, out: Tensor, stats: Tensor
) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _save_window(ctx: _WindowContext, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, cos, sin, ends, ctx.num_heads = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qkv, cos, sin, ends, *output)


@once
def _window_gradient(
    ctx: _WindowContext, grad_out: Tensor | None, _grad_stats: Tensor | None
) -> tuple[Tensor | None, None, None, None, None]:
    if grad_out is None:
        return None, None, None, None, None
    qkv, cos, sin, ends, out, stats = ctx.saved_tensors
    grad = torch.ops.foveate.window_attention_backward(grad_out, qkv, cos, sin, ends, ctx.num_heads, out, stats)
    return grad, None, None, None, None


def _register() -> None:
    """Give torch the fake kernels and the gradients."""
    library = torch.library
    library.register_fake("foveate::packed_attention", _fake_packed)
    library.register_fake("foveate::packed_attention_backward", _fake_packed_backward)
    library.register_autograd("foveate::packed_attention", _packed_gradient, setup_context=_save_packed)
    library.register_fake("foveate::window_attention", _fake_window)
    library.register_fake("foveate::window_attention_backward", _fake_window_backward)
    library.register_autograd("foveate::window_attention", _window_gradient, setup_context=_save_window)


if is_native():
    _register()
