"""What each native operation must equal: plain PyTorch, step by step, in the precision of its inputs.

Call a reference with f32 (or f64) inputs for the value to compare with, and with bf16 inputs for the error that plain
PyTorch makes in the same dtype.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def draw(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Normal numbers that a seed fixes."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide x [..., D] by its root mean square, then multiply by weight [D]."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the same on x + residual, and x + residual itself."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def packed_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], causal: bool) -> Tensor:
    """Attention of each sequence alone: q [T, H, D], k and v [T, G, D] with H a multiple of G -> [T, H, D]."""
    outputs = [q[:0]]
    for one, *shared in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        keys, values = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in shared)
        scores = torch.einsum("qhd,khd->hqk", one, keys) * q.shape[-1] ** -0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), float("-inf"))
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values))
    return torch.cat(outputs)


def decode_attention(
    q: Tensor, k: Tensor, v: Tensor, slots: list[int], lengths: list[int], scale: float | None = None
) -> Tensor:
    """Each token of q [B, H, D] over the first lengths[b] places of slot slots[b] of k and v [S, C, G, D]."""
    outputs = []
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    for one, slot, length in zip(q, slots, lengths, strict=True):
        keys, values = (x[slot, :length].repeat_interleave(q.shape[1] // k.shape[2], dim=1) for x in (k, v))
        chances = (torch.einsum("hd,khd->hk", one, keys) * scale).softmax(-1)
        outputs.append(torch.einsum("hk,khd->hd", chances, values))
    return torch.stack(outputs)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], causal: bool) -> Tensor:
    """The same by PyTorch's own fused attention, whose error in f32 or bf16 is what ours is held to."""
    outputs = [q[:0]]
    for parts in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        one, keys, values = (x.transpose(0, 1)[None] for x in parts)
        out = scaled_dot_product_attention(one, keys, values, is_causal=causal, enable_gqa=True)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D/2) of x [T, H, D] by angles whose cosines and sines are [T, D/2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype)[:, None], sin.to(x.dtype)[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def window_attention(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    lengths: list[int],
    num_heads: int,
    attend: Callable[[Tensor, Tensor, Tensor, list[int], bool], Tensor] = packed_attention,
) -> Tensor:
    """Split qkv [T, 3 * H * D], turn queries and keys, attend inside each window, merge: [T, H * D]."""
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(1)
    return attend(rotate(q, cos, sin), rotate(k, cos, sin), v, lengths, False).flatten(1)


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [..., 2 * I]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return gate * gate.sigmoid() * up


def dispatch(x: Tensor, place: Tensor, num_rows: int) -> Tensor:
    """Rows [num_rows, D]: row place[t, k] is x[t], the others are 0."""
    rows = x.new_zeros(num_rows, x.shape[1])
    return rows.index_put((place.flatten(),), x.repeat_interleave(place.shape[1], dim=0))


def combine(rows: Tensor, place: Tensor, weights: Tensor) -> Tensor:
    """Sum over k of weights[t, k] * rows[place[t, k]], [T, D]."""
    return combine_each(rows[place], weights)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product x weight^T + bias."""
    out = x @ weight.T
    return out if bias is None else out + bias


def experts(x: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Sum over k of weights[t, k] * down[e] (silu(gate[e] x[t]) * (up[e] x[t])) with e = chosen[t, k], [T, D]."""
    inner = silu_mul(torch.einsum("tkid,td->tki", gate_up[chosen], x))
    return combine_each(torch.einsum("tkdi,tki->tkd", down[chosen], inner), weights)


def combine_each(results: Tensor, weights: Tensor) -> Tensor:
    """Sum over k of weights [T, K] * results [T, K, D]."""
    return (results * weights[:, :, None].to(results.dtype)).sum(1)


def assert_as_exact_as_torch(ours: Tensor, plain: Tensor, reference: Tensor) -> None:
    """Check that the largest error of `ours` is at most twice that of `plain`, plus the rounding of one result.

    All three have one shape; `ours` and `plain` have one dtype, `reference` is wider.
    """
    assert ours.dtype == plain.dtype
    assert ours.shape == reference.shape
    if ours.numel() == 0:
        return
    wide = reference.double()
    error = (ours.double() - wide).abs().max().item()
    allowed = (plain.double() - wide).abs().max().item()
    floor = torch.finfo(ours.dtype).eps * wide.abs().max().item()
    assert error <= 2 * allowed + floor, f"error {error:.3e}, plain PyTorch's {allowed:.3e}, floor {floor:.3e}"
