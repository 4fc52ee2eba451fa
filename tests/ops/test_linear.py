"""A linear layer of few tokens equals its reference on every instruction set.

Proved: the error against f64 is at most twice that of plain PyTorch in the same dtype plus one rounding; odd widths, no
token, leading dimensions, strided tokens; int8 weights as what they round to; few tokens by the kernel; more tokens,
and wanted gradients, by torch; NaN stays with its token; opcheck; equal bits with 1, 2 and 5 threads; what does not fit
is named.
"""

from collections.abc import Callable

import pytest
import torch
from needs import needs_native
from torch import Tensor
from torch.nn import functional as F

import references
from foveate.errors import InputError
from foveate.ops import Int8Rows, Nf4Rows, linear, linear_f32, native, nf4
from foveate.ops.native import takes_tiles
from foveate.ops.nf4 import LEVELS
from foveate.ops.rounded import Weights
from references import assert_as_exact_as_torch, draw

DTYPES = [torch.bfloat16, torch.float32]
TINY = torch.finfo(torch.float32).tiny
SIZES = [(1, 64, 96), (3, 7, 5), (4, 130, 33), (2, 1, 1), (15, 70, 21)]
"""Tokens, inputs, outputs."""


def layer(size: tuple[int, int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    num_tokens, inputs, outputs = size
    weight = draw((outputs, inputs), torch.float32, 2) * inputs**-0.5
    return draw((num_tokens, inputs), dtype, 1), weight.to(dtype), draw((outputs,), dtype, 3)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_it_equals_its_reference(size: tuple[int, int, int], dtype: torch.dtype, has_bias: bool) -> None:
    x, weight, some = layer(size, dtype)
    bias = some if has_bias else None
    exact = references.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert_as_exact_as_torch(linear(x, weight, bias), references.linear(x, weight, bias), exact)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [*SIZES, (30, 64, 24), (0, 8, 4)])
def test_sums_in_f32_are_not_rounded(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, weight, _ = layer(size, dtype)
    plain = references.linear(x.float(), weight.float(), None)
    assert_as_exact_as_torch(linear_f32(x, weight), plain, references.linear(x.double(), weight.double(), None))


@pytest.mark.parametrize("num_tokens", [4, 40])
def test_sums_in_f32_stay_so_under_autocast(num_tokens: int) -> None:
    x, weight, _ = layer((num_tokens, 64, 24), torch.float32)
    wanted = linear_f32(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear_f32(x, weight), wanted)


@needs_native
@pytest.mark.parametrize(("num_tokens", "calls"), [(1, 1), (16, 1), (17, 0)])
@pytest.mark.parametrize("stored", [Tensor.clone, Int8Rows.of, Nf4Rows.of], ids=["f32", "int8", "nf4"])
def test_few_tokens_run_the_kernel_and_more_run_torch(
    stored: Callable[[Tensor], Weights], num_tokens: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, bias = layer((num_tokens, 64, 24), torch.float32)
    weights, kernel, counted = stored(weight), torch.ops.foveate.linear, list[int]()
    monkeypatch.setattr(torch.ops.foveate, "linear", lambda x, *rest: counted.append(len(x)) or kernel(x, *rest))
    linear(x, weights, bias)
    assert counted == [num_tokens] * calls


@needs_native
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("size", [(12, 64, 16), (33, 46, 37), (150, 130, 300), (17, 32, 15)])
def test_many_tokens_in_the_kernel(size: tuple[int, int, int]) -> None:
    """On tiles these are blocks of lines, and outputs and depths that fill none."""
    x, weight, bias = layer(size, torch.bfloat16)
    exact = references.linear(x.double(), weight.double(), bias.double())
    plain = references.linear(x, weight, bias)
    assert_as_exact_as_torch(torch.ops.foveate.linear(x, weight, bias, None), plain, exact)


def test_tiles_take_bf16_of_an_even_depth_and_sixteen_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, _ = layer((40, 64, 32), torch.bfloat16)
    monkeypatch.setattr(native, "_ISA", "avx2")
    assert not takes_tiles(x, weight)
    monkeypatch.setattr(native, "_ISA", "amx")
    assert takes_tiles(x, weight)
    for other in (weight[:, :63], weight[:15], weight.float(), Int8Rows.of(weight).values):
        assert not takes_tiles(x, other)
    assert not takes_tiles(x.float(), weight)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_tokens", [2, 30])
def test_int8_weights_are_what_they_round_to(num_tokens: int, dtype: torch.dtype) -> None:
    x, weight, bias = layer((num_tokens, 70, 24), dtype)
    rounded = Int8Rows.of(weight)
    exact = references.linear(x.double(), rounded.dequantized(torch.float64), bias.double())
    assert_as_exact_as_torch(linear(x, rounded, bias), references.linear(x, rounded.dequantized(dtype), bias), exact)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_tokens", [1, 2, 7, 30])
@pytest.mark.parametrize("width", [64, 320])
def test_weights_of_four_bits_are_what_they_round_to(width: int, num_tokens: int, dtype: torch.dtype) -> None:
    x, weight, bias = layer((num_tokens, width, 27), dtype)
    rounded = Nf4Rows.of(weight)
    exact = references.linear(x.double(), rounded.dequantized(torch.float64), bias.double())
    assert_as_exact_as_torch(linear(x, rounded, bias), references.linear(x, rounded.dequantized(dtype), bias), exact)


QLORA = (
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
)  # fmt: skip
"""Levels of NormalFloat4 (Dettmers et al., arXiv 2305.14314, appendix E)."""


def test_the_sixteen_are_the_published_ones() -> None:
    assert LEVELS.tolist() == [round(127 * level) for level in QLORA]
    weight = draw((64, 1024), torch.float32, 3)
    off = (
        Nf4Rows.of(weight).dequantized(torch.float32) - weight
    ).square().mean().sqrt() / weight.square().mean().sqrt()
    assert 0.08 < off < 0.1


def test_four_bits_are_the_nearest_of_sixteen() -> None:
    weight = draw((5, 192), torch.float32, 3)
    weight[2] = 0
    rounded = Nf4Rows.of(weight)
    back = rounded.dequantized(torch.float32)
    assert (rounded.codes.dtype, rounded.codes.shape, rounded.scales.shape) == (torch.uint8, (5, 96), (5, 3))
    assert torch.equal(rounded.scales, weight.unflatten(-1, (3, 64)).abs().amax(-1).clamp_min(TINY) / 127)
    levels = (LEVELS * rounded.scales[..., None]).repeat_interleave(64, dim=1)  # [R, D, 16]
    off = (weight[..., None] - levels).abs().amin(-1)
    torch.testing.assert_close((weight - back).abs(), off, atol=1e-6, rtol=0)
    assert torch.equal(Nf4Rows.of(back).codes, rounded.codes)
    assert not back[2].any()


@needs_native
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 192), (3, 5, 64), (0, 64)])
def test_four_bits_as_numbers_are_those_of_plain_pytorch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    rounded = Nf4Rows.of(draw(shape, torch.float32, 3))
    with native.plain_pytorch():
        wanted = rounded.dequantized(dtype)
    assert torch.equal(rounded.dequantized(dtype), wanted)
    assert torch.ops.foveate.nf4_numbers(*rounded, dtype == torch.bfloat16).dtype == dtype
    torch.library.opcheck(torch.ops.foveate.nf4_numbers.default, (*rounded, False))


def test_four_bits_on_another_device_become_numbers_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on one that has kernels, of which none does this."""

    def missing(*_: object) -> Tensor:
        raise NotImplementedError("nf4_numbers")

    monkeypatch.setattr(nf4, "has_kernels", lambda _: True)
    monkeypatch.setattr(torch.ops.foveate, "nf4_numbers", missing, raising=False)
    rounded = Nf4Rows.of(draw((3, 128), torch.float32, 3)).moved(lambda x: x.to("meta"))
    numbers = rounded.dequantized(torch.bfloat16)
    assert (numbers.shape, numbers.dtype, numbers.device.type) == ((3, 128), torch.bfloat16, "meta")


@needs_native
@pytest.mark.parametrize(
    ("codes", "scales", "told"),
    [
        (torch.zeros(3, 32), torch.zeros(3, 1), "codes must be a contiguous uint8"),
        (torch.zeros(3, 32, dtype=torch.uint8), torch.zeros(3, 2), r"row of \[3, 32\], got shape \[3, 2\]"),
    ],
)
def test_codes_that_do_not_fit_are_named(codes: Tensor, scales: Tensor, told: str) -> None:
    with pytest.raises(RuntimeError, match=told):
        torch.ops.foveate.nf4_numbers(codes, scales, True)


@pytest.mark.parametrize(("width", "number", "told"), [(96, 1.0, "a multiple of 64"), (64, float("inf"), "row 1 of")])
def test_what_has_no_four_bits_is_named(width: int, number: float, told: str) -> None:
    weight = torch.ones(3, width)
    weight[1, 5] = number
    with pytest.raises(InputError, match=told):
        Nf4Rows.of(weight)


@pytest.mark.usefixtures("isa")
def test_leading_dimensions_strides_no_token_and_nan() -> None:
    x, weight, bias = layer((4, 16, 8), torch.float32)
    wanted = references.linear(x, weight, bias)
    torch.testing.assert_close(linear(x.view(2, 2, 16), weight, bias), wanted.view(2, 2, 8))
    torch.testing.assert_close(linear(x.T.contiguous().T, weight.T.contiguous().T, bias), wanted)
    assert linear(x[:0], weight, bias).shape == (0, 8)
    x[2, 5] = float("nan")
    assert linear(x, weight, bias).isnan().any(-1).tolist() == [False, False, True, False]


@pytest.mark.parametrize("num_tokens", [2, 40])
@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_under_autocast_dtypes_may_differ(dtypes: tuple[torch.dtype, torch.dtype], num_tokens: int) -> None:
    x, weight, bias = (y.to(dtypes[number > 0]) for number, y in enumerate(layer((num_tokens, 16, 8), torch.float32)))
    with torch.autocast("cpu", torch.bfloat16):
        out, wanted = linear(x, weight, bias), F.linear(x, weight, bias)
    assert torch.equal(out, wanted)
    with pytest.raises(RuntimeError, match="same dtype"):
        linear(x, weight, bias)


def test_a_bias_may_have_gaps() -> None:
    x, weight, bias = draw((3, 8), torch.float32, 1), draw((5, 8), torch.float32, 2), draw((10,), torch.float32, 3)[::2]
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))


def test_gradients_are_those_of_torch() -> None:
    x, weight, bias = layer((2, 16, 8), torch.float32)
    grads = []
    for run in (linear, F.linear):
        leaves = [leaf.clone().requires_grad_() for leaf in (x, weight, bias)]
        grads.append(torch.autograd.grad(run(*leaves).square().sum(), leaves))  # type: ignore[operator]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@needs_native
@pytest.mark.usefixtures("threads", "isa")
@pytest.mark.parametrize("num_tokens", [3, 140])
def test_the_number_of_threads_changes_no_bit(num_tokens: int) -> None:
    x, weight, bias = layer((num_tokens, 300, 400), torch.bfloat16)
    runs = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        runs.append(torch.ops.foveate.linear(x, weight, bias, None))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@needs_native
def test_opcheck() -> None:
    x, weight, bias = layer((3, 16, 8), torch.float32)
    rounded = Int8Rows.of(weight)
    check, operation = torch.library.opcheck, torch.ops.foveate.linear.default
    check(operation, (x, weight, None, None))
    check(operation, (x.bfloat16(), weight.bfloat16(), None, None, True))
    check(operation, (x, rounded.values, bias, rounded.scales))
    x, weight, bias = layer((3, 64, 8), torch.float32)
    codes, scales = Nf4Rows.of(weight)
    check(operation, (x, codes, bias, scales))


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weight": torch.zeros(8, 15)},
            r"weight must be \[outputs, 16\] for x \[3, 16\], got 15 weights a row in",
        ),
        ({"weight": torch.zeros(8, 16).bfloat16()}, "weight must have x's dtype, or be int8 or uint8 with"),
        ({"bias": torch.zeros(7)}, r"bias must be contiguous \[8\] in the dtype of x, got shape \[7\]"),
        ({"scales": torch.zeros(8)}, "weight with scales must be int8"),
        (
            {"weight": torch.zeros(8, 16, dtype=torch.int8), "scales": torch.zeros(7)},
            r"one for each row of \[8, 16\], got shape \[7\]",
        ),
        (
            {"weight": torch.zeros(8, 8, dtype=torch.uint8), "scales": torch.zeros(8, 1)},
            r"one for each group of 64 weights, two in a byte, in a row of \[8, 8\], got shape \[8, 1\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor], message: str) -> None:
    x, weight, bias = layer((3, 16, 8), torch.float32)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.foveate.linear(**{"x": x, "weight": weight, "bias": bias, "scales": None} | change)
