"""A mixture of experts equals its reference for few tokens and for many, on every instruction set.

Proved: the error against f64, and that of gradients, is at most twice that of plain PyTorch in the same dtype plus one
rounding; odd widths, no token, one expert twice, experts that nobody chose, NaN that stays with its token; int8 weights
as what they round to; few and many tokens by different ways to one result; a token's bits do not depend on those beside
it; opcheck; equal bits with 1, 2 and 5 threads; what does not fit is named.
"""

from collections.abc import Callable

import pytest
import torch
from needs import needs_native
from torch import Tensor

import references
from foveate.errors import InputError
from foveate.ops import Int8Rows, Nf4Rows, experts_forward
from foveate.ops.experts import expert_order, grouped_experts, padding
from references import assert_as_exact_as_torch, draw

DTYPES = [torch.bfloat16, torch.float32]
SIZES = [(1, 64, 32, 2), (5, 48, 40, 3), (3, 7, 5, 1), (9, 130, 33, 4), (70, 65, 24, 4)]
"""Tokens, width, width of an expert, experts of a token."""
NUM_EXPERTS = 16


def problem(num_tokens: int, width: int, inner: int, top_k: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    chances = draw((num_tokens, NUM_EXPERTS), torch.float32, 1)
    weights, chosen = chances.softmax(-1).topk(top_k)
    gate_up = draw((NUM_EXPERTS, 2 * inner, width), torch.float32, 2) * width**-0.5
    down = draw((NUM_EXPERTS, width, inner), torch.float32, 3) * inner**-0.5
    return draw((num_tokens, width), dtype, 4), chosen, weights, gate_up.to(dtype), down.to(dtype)


def wide(numbers: tuple[Tensor, ...]) -> list[Tensor]:
    return [x.double() if x.is_floating_point() else x for x in numbers]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_few_tokens(size: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    numbers = problem(*size, dtype)
    exact = references.experts(*wide(numbers))
    assert_as_exact_as_torch(experts_forward(*numbers), references.experts(*numbers), exact)


@needs_native
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("size", [(70, 66, 40, 4), (400, 64, 16, 2), (900, 32, 34, 8)])
def test_many_tokens_in_the_kernel(size: tuple[int, int, int, int]) -> None:
    """On tiles blocks of lines, several for some experts, and depths that fill none; the last size is four chunks."""
    numbers = problem(*size, torch.bfloat16)
    ours = torch.ops.foveate.moe_experts(*numbers, None, None)
    assert_as_exact_as_torch(ours, references.experts(*numbers), references.experts(*wide(numbers)))


Experts = Callable[..., Tensor]


def results(run: Experts, numbers: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    """The output and the gradients of a weighted sum of it, computed in a dtype."""
    x, chosen, *rest = numbers
    leaves = [y.to(dtype, copy=True).requires_grad_() for y in (x, *rest)]
    out = run(leaves[0], chosen, *leaves[1:])
    return [out.detach(), *torch.autograd.grad((out * draw(tuple(out.shape), dtype, 9)).sum(), leaves)]


def assert_with_gradients_as_exact(ours: Experts, numbers: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    triples = (results(run, numbers, kind) for run, kind in (
        (ours, dtype), (references.experts, dtype), (references.experts, torch.float64)))  # fmt: skip
    for triple in zip(*triples, strict=True):
        assert_as_exact_as_torch(*triple)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_tokens", [2, 37, 150])
def test_many_tokens_and_gradients(num_tokens: int, dtype: torch.dtype) -> None:
    assert_with_gradients_as_exact(experts_forward, problem(num_tokens, 24, 12, 2, dtype), dtype)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "width", "inner"), [(Int8Rows, 70, 24), (Nf4Rows, 128, 64)])
def test_rounded_weights_are_what_they_round_to(
    kind: type[Int8Rows | Nf4Rows], width: int, inner: int, dtype: torch.dtype
) -> None:
    x, chosen, weights, *matrices = problem(4, width, inner, 2, dtype)
    rounded = [kind.of(matrix) for matrix in matrices]
    exact = references.experts(*wide((x, chosen, weights)), *(each.dequantized(torch.float64) for each in rounded))
    plain = references.experts(x, chosen, weights, *(each.dequantized(dtype) for each in rounded))
    assert_as_exact_as_torch(experts_forward(x, chosen, weights, *rounded), plain, exact)
    many = (x.repeat(160, 1), chosen.repeat(160, 1), weights.repeat(160, 1))
    assert_as_exact_as_torch(experts_forward(*many, *rounded), plain.repeat(160, 1), exact.repeat(160, 1))


def test_int8_is_the_nearest_and_fills_its_range() -> None:
    for matrix in problem(4, 70, 24, 2, torch.bfloat16)[3:]:
        rounded = Int8Rows.of(matrix)
        assert rounded.values.dtype == torch.int8
        assert rounded.values.abs().amax(-1).eq(127).all()
        off = (rounded.dequantized(torch.float32) - matrix.float()).abs()
        assert (off <= rounded.scales[..., None] * 0.5001).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("which", [0, 1])
def test_one_matrix_in_int8_and_the_other_not(which: int) -> None:
    x, chosen, weights, *matrices = problem(4, 70, 24, 2, torch.bfloat16)
    mixed: list[Tensor | Int8Rows] = list(matrices)
    mixed[which] = rounded = Int8Rows.of(matrices[which])
    alike = list(matrices)
    alike[which] = rounded.dequantized(torch.float64)
    exact = references.experts(*wide((x, chosen, weights, *alike)))
    alike[which] = rounded.dequantized(torch.bfloat16)
    assert_as_exact_as_torch(
        experts_forward(x, chosen, weights, *mixed), references.experts(x, chosen, weights, *alike), exact
    )


def test_a_row_of_zeros_stays_zero_in_int8() -> None:
    assert not Int8Rows.of(torch.zeros(1, 2, 3)).dequantized(torch.float32).any()


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_has_no_int8(number: float) -> None:
    weights = torch.ones(2, 3, 4)
    weights[1, 2, 0] = number
    with pytest.raises(InputError, match=r"row 2 of weights \[3, 4\] has (inf|nan); int8 wants finite numbers"):
        Int8Rows.of(weights)


@pytest.mark.parametrize("kind", [Int8Rows, Nf4Rows])
def test_experts_are_rounded_as_alone_and_keep_no_graph(kind: type[Int8Rows | Nf4Rows]) -> None:
    weights = draw((3, 5, 64), torch.bfloat16, 1).requires_grad_()
    together = kind.of(weights)
    for one, expert in zip(together.each(), weights, strict=True):
        assert all(map(torch.equal, one, kind.of(expert)))
    assert not together.scales.requires_grad


@pytest.mark.parametrize("num_tokens", [2, 1500])
def test_under_autocast_dtypes_may_differ(num_tokens: int) -> None:
    x, chosen, weights, *matrices = problem(num_tokens, 16, 8, 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = experts_forward(x.bfloat16(), chosen, weights, *matrices)
    torch.testing.assert_close(out.float(), references.experts(x, chosen, weights, *matrices), rtol=0.05, atol=0.05)


@pytest.mark.usefixtures("isa")
def test_no_token_one_expert_twice_and_nan() -> None:
    x, chosen, weights, *matrices = problem(3, 16, 8, 2, torch.float32)
    assert experts_forward(x[:0], chosen[:0], weights[:0], *matrices).shape == (0, 16)
    chosen[1] = chosen[1, 0]
    torch.testing.assert_close(
        experts_forward(x, chosen, weights, *matrices), references.experts(x, chosen, weights, *matrices)
    )
    x[1, 3] = float("nan")
    assert experts_forward(x, chosen, weights, *matrices).isnan().any(-1).tolist() == [False, True, False]


@needs_native
@pytest.mark.usefixtures("threads", "isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_tokens", [6, 120])
def test_the_number_of_threads_changes_no_bit(num_tokens: int, dtype: torch.dtype) -> None:
    numbers, learned = problem(num_tokens, 300, 200, 3, dtype), problem(num_tokens, 96, 64, 3, dtype)
    runs = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        runs.append([experts_forward(*numbers), *results(experts_forward, learned, dtype)])
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert torch.equal(one, two)


@needs_native
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_is_the_same_in_any_company(dtype: torch.dtype) -> None:
    x, chosen, weights, *matrices = problem(40, 70, 33, 3, dtype)
    together = experts_forward(x, chosen, weights, *matrices)
    for number in (0, 7, 39):
        one = slice(number, number + 1)
        assert torch.equal(experts_forward(x[one], chosen[one], weights[one], *matrices), together[one])


@needs_native
def test_opcheck() -> None:
    x, chosen, weights, *matrices = problem(3, 16, 8, 2, torch.float32)
    rounded = [Int8Rows.of(matrix) for matrix in matrices]
    check, operation = torch.library.opcheck, torch.ops.foveate.moe_experts.default
    check(operation, (x, chosen, weights, *matrices, None, None))
    check(operation, (x, chosen, weights, *(each.values for each in rounded), *(each.scales for each in rounded)))


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": torch.full((3, 2), NUM_EXPERTS)}, "experts must lie in 0 to 15, got 16"),
        ({"experts": torch.zeros(2, 2).long()}, r"experts must be .* \[3, choices\], got shape \[2, 2\]"),
        ({"experts": torch.zeros(3, 2).int()}, r"experts must be .* got shape \[3, 2\] of int32"),
        ({"weights": torch.zeros(3, 3)}, r"weights must be .* \[3, 2\], got shape \[3, 3\]"),
        ({"gate_up": torch.zeros(NUM_EXPERTS, 16, 17)}, r"must fit x \[3, 16\], got shapes \[16, 16, 17\]"),
        (
            {"down": torch.zeros(NUM_EXPERTS, 16, 8).bfloat16()},
            "down must have x's dtype, .* x has float32, got bfloat16",
        ),
        ({"down_scales": torch.zeros(NUM_EXPERTS, 16)}, "down with scales must be int8"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor], message: str) -> None:
    names = ("x", "experts", "weights", "gate_up", "down")
    numbers = dict(zip(names, problem(3, 16, 8, 2, torch.float32), strict=True))
    with pytest.raises(RuntimeError, match=message):
        torch.ops.foveate.moe_experts(**{"gate_up_scales": None, "down_scales": None} | numbers | change)


@pytest.mark.parametrize("num_tokens", [1, 37, 150])
def test_grouped_products_are_the_experts_one_by_one(num_tokens: int) -> None:
    """What a GPU runs, on the processor: the same rows, also where an expert has none, and the same gradients."""
    numbers = problem(num_tokens, 24, 16, 2, torch.bfloat16)
    assert_with_gradients_as_exact(grouped_experts, numbers, torch.bfloat16)
    with torch.no_grad():  # then an expert that nobody has chosen has no row
        ours = grouped_experts(*numbers)
    assert_as_exact_as_torch(ours, references.experts(*numbers), references.experts(*wide(numbers)))


def test_a_graph_that_learns_in_bf16_has_no_break() -> None:
    """A trace knows no expert's number of rows; the products are those of the test above."""
    compiled = torch.compile(experts_forward, fullgraph=True, backend="aot_eager")
    assert_with_gradients_as_exact(compiled, problem(37, 24, 16, 2, torch.bfloat16), torch.bfloat16)


def test_every_expert_has_rows_of_its_own_and_some_to_spare() -> None:
    chosen = torch.tensor([[0, 3], [3, 5], [3, 0]])
    place, sizes = expert_order(chosen, 6, 4, spare=1)
    assert sizes.tolist() == [4, 4, 4, 4, 4, 4]
    assert place.tolist() == [[0, 12], [13, 20], [14, 1]]
    assert expert_order(chosen, 6, 1)[1].tolist() == [2, 0, 0, 3, 0, 1]


def test_few_rows_are_multiplied_in_vain() -> None:
    assert [padding(rows * 8, 8) for rows in (0, 5, 16, 48, 470, 1023, 1024, 100_000)] == [1, 1, 1, 2, 16, 32, 64, 64]
