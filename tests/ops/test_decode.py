"""Attention over a cache equals attention over what its slots hold, on every instruction set.

Proved: the error against f64 is at most twice that of plain PyTorch step by step in the same dtype plus one rounding;
one and many parts, shared key heads, odd sizes, strided caches, what lies behind a length is not read; opcheck; equal
bits with 1, 2 and 5 threads; what does not fit is named.
"""

import pytest
import torch
from needs import needs_native
from torch import Tensor

import references
from foveate import ops
from foveate.ops.decode import _has_cuda_kernel
from references import assert_as_exact_as_torch, draw

SHAPES = [(8, 4, 32), (16, 2, 128), (3, 1, 80), (2, 2, 7), (18, 1, 16), (10, 2, 64), (2, 2, 16)]
"""Query heads, key heads, head size."""


def cache(shape: tuple[int, int, int], dtype: torch.dtype, capacity: int = 1300) -> tuple[Tensor, Tensor]:
    _, key_heads, dim = shape
    k, v = (draw((3, capacity, key_heads, dim), dtype, seed) for seed in (1, 2))
    return k, v


def decode(q: Tensor, k: Tensor, v: Tensor, slots: list[int], lengths: list[int]) -> Tensor:
    return ops.decode_attention(q, k, v, torch.tensor(slots), torch.tensor(lengths), max(lengths))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_its_reference(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    k, v = cache(shape, dtype)
    q = draw((4, shape[0], shape[2]), dtype, 3) * 3
    where = ([2, 0, 1, 2], [1, 65, 1300, 513])
    exact = references.decode_attention(q.double(), k.double(), v.double(), *where)
    assert_as_exact_as_torch(decode(q, k, v, *where), references.decode_attention(q, k, v, *where), exact)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_values_of_another_width_and_inside_the_keys(dtype: torch.dtype) -> None:
    latents, others = draw((2, 700, 1, 72), dtype, 1), draw((2, 700, 1, 40), dtype, 2)
    q, slots, lengths = draw((2, 16, 72), dtype, 3), [1, 0], [700, 33]
    for v in (latents[..., :64], latents[..., :64].clone(), others):
        where = (torch.tensor(slots), torch.tensor(lengths), 700)
        exact = references.decode_attention(q.double(), latents.double(), v.double(), slots, lengths, 0.2)
        plain = references.decode_attention(q, latents, v, slots, lengths, 0.2)
        assert_as_exact_as_torch(ops.decode_attention(q, latents, v, *where, scale=0.2), plain, exact)


def test_what_lies_behind_a_length_is_not_read() -> None:
    k, v = cache((4, 2, 32), torch.float32)
    q = draw((1, 4, 32), torch.float32, 3)
    before = decode(q, k, v, [1], [70])
    for x in (k, v):
        x[1, 70:] = float("nan")
        x[[0, 2]] = float("nan")
    assert torch.equal(decode(q, k, v, [1], [70]), before)


def test_plain_pytorch_gives_the_same() -> None:
    k, v = cache((4, 2, 16), torch.float64, 50)
    q = draw((2, 4, 16), torch.float64, 3)
    wanted = references.decode_attention(q, k, v, [2, 0], [50, 3])
    torch.testing.assert_close(decode(q, k, v, [2, 0], [50, 3]), wanted)


def test_keys_and_values_alone_may_want_a_gradient() -> None:
    q, k, v = (draw(shape, torch.float32, seed) for seed, shape in enumerate([(1, 2, 16), *[(1, 5, 2, 16)] * 2]))
    where = torch.zeros(1, dtype=torch.long), torch.tensor([5])
    for leaf in (k, v):
        leaf.requires_grad_()
        (grad,) = torch.autograd.grad(ops.decode_attention(q, k, v, *where, 5).square().sum(), leaf)
        assert grad.any()
        leaf.requires_grad_(False)


def test_a_cache_may_be_a_view() -> None:
    layers = draw((2, 3, 40, 2, 32), torch.float32, 1)
    q = draw((2, 4, 32), torch.float32, 3)
    k, v = layers[1][:, ::2], layers[0][:, ::2]
    wanted = references.decode_attention(q, k, v, [0, 2], [20, 7])
    torch.testing.assert_close(decode(q, k, v, [0, 2], [20, 7]), wanted)


def test_what_the_kernel_for_gpus_takes_is_known_while_torch_traces() -> None:
    latents, heads = torch.zeros(2, 4, 1, 576), torch.zeros(2, 4, 2, 64)
    caches = [
        (latents, latents[..., :512], True), (latents, torch.zeros(2, 4, 1, 512), False), (heads, heads + 1, True),
        (heads, heads[..., :32], False), (heads[..., :60], heads[..., :60], False),
        (torch.zeros(2, 4, 2, 68)[..., :64], heads, False),
    ]  # fmt: skip
    compiled = torch.compile(
        lambda k, v: k + 1 if _has_cuda_kernel(k, v) else k - 1, fullgraph=True, backend="eager", dynamic=False
    )
    for k, v, taken in caches:
        assert _has_cuda_kernel(k, v) == taken
        assert compiled(k, v).flatten()[0] == (k + 1 if taken else k - 1).flatten()[0]
    shifted = torch.zeros(2 * 4 * 2 * 64 + 1)[1:].view(2, 4, 2, 64)
    assert not _has_cuda_kernel(shifted, shifted)


@needs_native
@pytest.mark.usefixtures("threads", "isa")
def test_the_number_of_threads_changes_no_bit() -> None:
    k, v = cache((8, 2, 64), torch.bfloat16)
    q = draw((3, 8, 64), torch.bfloat16, 3)
    runs = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        runs.append(decode(q, k, v, [0, 1, 2], [1300, 600, 512]))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@needs_native
def test_opcheck() -> None:
    k, v = cache((4, 2, 8), torch.float32, 9)
    arguments = (draw((2, 4, 8), torch.float32, 3), k, v, torch.tensor([0, 2]), torch.tensor([9, 1]), 0.3)
    torch.library.opcheck(torch.ops.foveate.decode_attention.default, arguments)


@needs_native
@pytest.mark.parametrize(
    ("slots", "lengths", "message"),
    [
        ([0, 3], [1, 1], "slots must lie in 0 to 2, got 3"),
        ([0, 1], [1, 10], "lengths must lie in 1 to 9, got 10"),
        ([0, 1], [0, 1], "lengths must lie in 1 to 9, got 0"),
        ([0], [1, 1], r"slots must be a contiguous int64 tensor \[2\], got shape \[1\]"),
    ],
)
def test_what_does_not_fit_is_named(slots: list[int], lengths: list[int], message: str) -> None:
    k, v = cache((4, 2, 8), torch.float32, 9)
    with pytest.raises(RuntimeError, match=message):
        decode(draw((2, 4, 8), torch.float32, 3), k, v, slots, lengths)


@needs_native
def test_a_cache_that_does_not_fit_is_named() -> None:
    k, v = cache((4, 2, 8), torch.float32, 9)
    q = draw((2, 4, 8), torch.float32, 3)
    with pytest.raises(RuntimeError, match="k must have the numbers of a row side by side, got stride 18"):
        decode(q, k.transpose(1, 3).contiguous().transpose(1, 3), v, [0, 1], [1, 1])
    with pytest.raises(RuntimeError, match="v must have the dtype of q, float32; got bfloat16"):
        decode(q, k, v.bfloat16(), [0, 1], [1, 1])
    with pytest.raises(RuntimeError, match=r"v must have as many slots, tokens and heads as k \[3, 9, 2, 8\], got"):
        decode(q, k, v[:, :5], [0, 1], [1, 1])
