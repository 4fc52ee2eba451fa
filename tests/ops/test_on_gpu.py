"""The CUDA kernels equal their references, forward and backward. Skipped where there is no GPU or they are not built.

Proved: the error against f32 is at most twice that of plain PyTorch in bf16 plus one rounding; windows of one tile and
of many, empty ones, no token; the same bits again; choices in the stable order; NaN that stays with its window.
"""

import pytest
import torch
from torch import Tensor

import references
from foveate.ops import Packing, decode_attention, experts_forward, rotate, silu_mul, window_attention
from foveate.ops.native import is_served
from references import assert_as_exact_as_torch, draw

BF16, F32 = torch.bfloat16, torch.float32


def has_kernels() -> bool:
    return torch.cuda.is_available() and is_served(torch.zeros(1, dtype=BF16, device="cuda"), cuda=True)


pytestmark = pytest.mark.skipif(not has_kernels(), reason="no GPU, or foveate/_cuda.so is not built")
WINDOWS = [[64] * 4, [64, 36, 1, 0, 9, 64], [300, 64, 129], [], [0, 0], [1000]]


def windows(
    lengths: list[int], num_heads: int, head_dim: int, dtype: torch.dtype
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    tokens = sum(lengths)
    angles = draw((tokens, head_dim // 2), F32, 3) * 3
    qkv = draw((tokens, 3 * num_heads * head_dim), BF16, 4).to("cuda", dtype)
    return qkv, (angles.cos().cuda(), angles.sin().cuda())


@pytest.mark.parametrize("head_dim", [16, 32, 64, 72, 80, 96, 128])
@pytest.mark.parametrize("lengths", WINDOWS)
def test_window_attention_and_its_gradient(lengths: list[int], head_dim: int) -> None:
    num_heads, tokens = 3, sum(lengths)
    weight = draw((tokens, num_heads * head_dim), BF16, 5).cuda()

    def results(run: object, dtype: torch.dtype) -> list[Tensor]:
        qkv, (cos, sin) = windows(lengths, num_heads, head_dim, dtype)
        out = run(qkv.requires_grad_(), cos, sin)  # type: ignore[operator]
        return [out.detach(), *torch.autograd.grad((out.to(dtype) * weight.to(dtype)).sum(), qkv)]

    def ours(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return window_attention(qkv, (cos, sin), Packing(lengths), num_heads)

    def plain(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return references.window_attention(qkv, cos, sin, lengths, num_heads, references.fused_attention)

    mine, again, theirs, exact = results(ours, BF16), results(ours, BF16), results(plain, BF16), results(plain, F32)
    for one, two, other, reference in zip(mine, again, theirs, exact, strict=True):
        assert torch.equal(one, two)
        assert_as_exact_as_torch(one, other, reference)


def test_a_window_that_is_not_a_number_spoils_no_other() -> None:
    qkv, tables = windows([64, 20, 64], 2, 64, BF16)
    clean = window_attention(qkv, tables, Packing([64, 20, 64]), 2)
    qkv[70] = float("nan")
    spoiled = window_attention(qkv, tables, Packing([64, 20, 64]), 2)
    assert torch.equal(spoiled[:64], clean[:64])
    assert torch.equal(spoiled[84:], clean[84:])
    assert bool(spoiled[64:84].isnan().all())


@pytest.mark.parametrize("size", [1e3, 3e4, 1e6])
def test_window_attention_of_vast_scores_has_a_gradient(size: float) -> None:
    """Of each query the weights sum up to 1: so do the gradients of values to those of results."""
    qkv, weight = draw((70, 240), BF16, 1), draw((70, 80), BF16, 2).cuda()
    qkv[:, :160] *= size
    leaf = qkv.cuda().requires_grad_()
    out = window_attention(leaf, (torch.ones(70, 40).cuda(), torch.zeros(70, 40).cuda()), Packing([70]), 1)
    (grad,) = torch.autograd.grad((out * weight).sum(), leaf)
    assert grad.isfinite().all()
    torch.testing.assert_close(grad[:, 160:].float().sum(0), weight.float().sum(0), rtol=0.01, atol=0.1)


@pytest.mark.parametrize(
    ("head_dim", "value_dim", "key_heads"), [(64, 64, 2), (128, 128, 1), (256, 256, 4), (576, 512, 1)]
)
@pytest.mark.parametrize("lengths", [[1], [5, 700, 64, 1], [4000, 3], [900, 3] * 33])
def test_decode_attention(head_dim: int, value_dim: int, key_heads: int, lengths: list[int]) -> None:
    slots, num_heads = list(range(len(lengths)))[::-1], 24
    q = draw((len(lengths), num_heads, head_dim), BF16, 1).cuda()
    room = (len(lengths), key_heads, max(lengths) + 96, head_dim)  # as the thinker's: the tokens of a head in a row
    k = draw(room, BF16, 2).cuda().transpose(1, 2)
    v = k[..., :value_dim] if value_dim < head_dim else draw(room, BF16, 3).cuda().transpose(1, 2)
    numbers = [torch.tensor(x, device="cuda") for x in (slots, lengths)]
    out = decode_attention(q, k, v, *numbers, max(lengths))
    exact = references.decode_attention(q.float(), k.float(), v.float(), slots, lengths)
    assert_as_exact_as_torch(out, references.decode_attention(q, k, v, slots, lengths), exact)


def mixture(tokens: int, width: int, inner: int, num_experts: int, top_k: int) -> tuple[Tensor, ...]:
    weights, chosen = draw((tokens, num_experts), F32, 1).softmax(-1).topk(top_k)
    gate_up = (draw((num_experts, 2 * inner, width), F32, 2) * width**-0.5).to(BF16)
    down = (draw((num_experts, width, inner), F32, 3) * inner**-0.5).to(BF16)
    return tuple(x.cuda() for x in (draw((tokens, width), BF16, 4), chosen, weights, gate_up, down))


@pytest.mark.parametrize("tokens", [0, 1, 5, 97, 600, 3000])
@pytest.mark.parametrize(
    ("width", "inner", "num_experts", "top_k"), [(256, 128, 8, 2), (72, 40, 5, 3), (64, 200, 33, 1)]
)
@torch.no_grad()
def test_experts(tokens: int, width: int, inner: int, num_experts: int, top_k: int) -> None:
    x, chosen, weights, gate_up, down = mixture(tokens, width, inner, num_experts, top_k)
    out = torch.ops.foveate.moe_experts(x, chosen, weights, gate_up, down, None, None)
    assert torch.equal(out, torch.ops.foveate.moe_experts(x, chosen, weights, gate_up, down, None, None))
    exact = references.experts(x.float(), chosen, weights, gate_up.float(), down.float())
    assert_as_exact_as_torch(out, references.experts(x, chosen, weights, gate_up, down), exact)


@pytest.mark.parametrize("tokens", [1, 33, 5000, 100_000])
@pytest.mark.parametrize(("num_experts", "top_k"), [(8, 2), (64, 6), (1000, 1)])
def test_order_of_choices(tokens: int, num_experts: int, top_k: int) -> None:
    chosen = torch.randint(num_experts, (tokens, top_k), generator=torch.Generator().manual_seed(1))
    place, ends = torch.ops.foveate.moe_order(chosen.cuda(), num_experts)
    wanted_place, wanted_ends = torch.ops.foveate.moe_order(chosen, num_experts)
    assert torch.equal(place.cpu(), wanted_place)
    assert torch.equal(ends.cpu(), wanted_ends)


@pytest.mark.parametrize("tokens", [0, 1, 77])
def test_experts_for_training(tokens: int) -> None:
    numbers = mixture(tokens, 64, 32, 8, 2)
    weight = draw((tokens, 64), BF16, 9).cuda()

    def results(run: object, dtype: torch.dtype) -> list[Tensor]:
        x, chosen, weights, gate_up, down = numbers
        leaves = [y.to(dtype, copy=True).requires_grad_() for y in (x, weights, gate_up, down)]
        out = run(leaves[0], chosen, *leaves[1:])  # type: ignore[operator]
        return [out.detach(), *torch.autograd.grad((out * weight.to(dtype)).sum(), leaves)]

    theirs, exact = results(references.experts, BF16), results(references.experts, F32)
    for triple in zip(results(experts_forward, BF16), theirs, exact, strict=True):
        assert_as_exact_as_torch(*triple)


@pytest.mark.parametrize("head_dim", [16, 64, 80])
def test_rotate_and_its_gradient(head_dim: int) -> None:
    qkv, (cos, sin) = windows([37], 4, head_dim, BF16)
    x = qkv.unflatten(-1, (12, head_dim))[:, 2:9].requires_grad_()
    out = rotate(x, (cos, sin))
    assert_as_exact_as_torch(out.detach(), references.rotate(x, cos, sin), references.rotate(x.float(), cos, sin))
    back = torch.autograd.grad(out.float().sum(), x)[0]
    assert_as_exact_as_torch(back, references.rotate(torch.ones_like(x), cos, -sin),
                             references.rotate(torch.ones_like(x).float(), cos, -sin))  # fmt: skip


def test_gate_and_its_gradient() -> None:
    def results(run: object, dtype: torch.dtype) -> list[Tensor]:
        gate_up = draw((3, 41, 48), BF16, 1).to("cuda", dtype).requires_grad_()
        out = run(gate_up)  # type: ignore[operator]
        return [out.detach(), *torch.autograd.grad((out * draw((3, 41, 24), BF16, 2).to(out)).sum(), gate_up)]

    triples = results(silu_mul, BF16), results(references.silu_mul, BF16), results(references.silu_mul, F32)
    for triple in zip(*triples, strict=True):
        assert_as_exact_as_torch(*triple)
