"""The gate of a SwiGLU, rotation, dispatch and combine equal their references on every instruction set.

Proved for each: the error of result and gradients against f64 is at most twice that of plain PyTorch in the same dtype
plus one rounding; odd widths, nothing at all, strided and expanded inputs; opcheck's contract; equal bits with 1, 2 and
5 threads; extreme numbers and NaN; what does not fit is named.
"""

from collections.abc import Callable

import pytest
import torch
from needs import needs_native
from torch import Tensor

import references
from foveate import ops
from foveate.ops.moe import order
from references import assert_as_exact_as_torch, draw

DTYPES = [torch.bfloat16, torch.float32]


def choices(num_tokens: int, top_k: int, spare: int) -> tuple[Tensor, int]:
    """Places [T, K] in a shuffled order, and the number of rows, of which `spare` are nobody's."""
    num_rows = num_tokens * top_k + spare
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(3))
    return order[: num_tokens * top_k].view(num_tokens, top_k), num_rows


def results(run: Callable[..., Tensor], leaves: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The output and the gradients of a weighted sum of it; leaves of other dtypes than the first keep theirs."""
    own = [(x.to(dtype, copy=True) if x.dtype == leaves[0].dtype else x.clone()).requires_grad_() for x in leaves]
    out = run(*own)
    weight = draw(tuple(out.shape), torch.bfloat16, 9).to(dtype)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), own, materialize_grads=True)]


def assert_as_exact(ours: Callable[..., Tensor], reference: Callable[..., Tensor], leaves: list[Tensor]) -> None:
    dtype = leaves[0].dtype
    triples = zip(
        results(ours, leaves, dtype), results(reference, leaves, dtype), results(reference, leaves, torch.float64),
        strict=True,
    )  # fmt: skip
    for triple in triples:
        assert_as_exact_as_torch(*triple)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 2), (3, 14), (2, 7, 64), (40, 352), (0, 6)])
def test_silu_mul_equals_its_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_as_exact(ops.silu_mul, references.silu_mul, [draw(shape, dtype, 1) * 3])


@pytest.mark.usefixtures("isa")
def test_silu_mul_of_extreme_numbers_is_finite_and_keeps_nan() -> None:
    gate_up = torch.tensor([[-3e38, -200.0, 88.0, 3e38, 0.0, float("nan"), 1.0, 1.0, 1.0, 1.0, 5.0, 1.0]])
    gate_up.requires_grad_()
    out = ops.silu_mul(gate_up)
    torch.testing.assert_close(out[0, :5].detach(), torch.tensor([0.0, 0.0, 88.0, 3e38, 0.0]))
    out[0, :5].sum().backward()
    assert gate_up.grad is not None
    assert gate_up.grad[0, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]].isfinite().all()
    assert out[0, 5].isnan()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 3, 64), (5, 1, 80), (2, 4, 6), (9, 2, 2), (0, 2, 8)])
def test_rotate_equals_its_reference(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    angles = draw((shape[0], shape[2] // 2), torch.float32, 4) * 3

    def reference(x: Tensor) -> Tensor:
        return references.rotate(x, angles.cos(), angles.sin())

    def ours(x: Tensor) -> Tensor:
        return ops.rotate(x, (angles.cos(), angles.sin()))

    assert_as_exact(ours, reference, [draw(shape, dtype, 1)])


def test_plain_pytorch_rounds_bf16_once() -> None:
    x, angles = draw((7, 3, 64), torch.bfloat16, 1), draw((7, 32), torch.float32, 4)
    with ops.plain_pytorch():
        turned, gated = ops.rotate(x, (angles.cos(), angles.sin())), ops.silu_mul(x)
    assert torch.equal(turned, references.rotate(x.float(), angles.cos(), angles.sin()).bfloat16())
    assert torch.equal(gated, (torch.nn.functional.silu(x[..., :32].float()) * x[..., 32:].float()).bfloat16())


def test_rotate_reads_heads_where_they_lie_in_a_projection() -> None:
    qkv, angles = draw((6, 5, 16), torch.float32, 1), draw((6, 8), torch.float32, 2)
    heads = qkv[:, 1:4]
    torch.testing.assert_close(
        ops.rotate(heads, (angles.cos(), angles.sin())), references.rotate(heads, angles.cos(), angles.sin())
    )
    sideways = draw((6, 16, 3), torch.float32, 3).transpose(1, 2)
    torch.testing.assert_close(
        ops.rotate(sideways, (angles.cos(), angles.sin())), references.rotate(sideways, angles.cos(), angles.sin())
    )


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_tokens", "top_k", "spare", "width"), [(5, 2, 3, 64), (1, 1, 0, 7), (9, 6, 40, 33)])
def test_dispatch_and_combine_equal_their_references(
    num_tokens: int, top_k: int, spare: int, width: int, dtype: torch.dtype
) -> None:
    place, num_rows = choices(num_tokens, top_k, spare)
    weights = draw((num_tokens, top_k), torch.float64, 2).float().abs()

    def sent(dispatch: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x: dispatch(x, place, num_rows)

    def back(combine: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda rows, weights: combine(rows, place, weights)

    assert_as_exact(sent(ops.dispatch), sent(references.dispatch), [draw((num_tokens, width), dtype, 1)])
    rows = draw((num_rows, width), dtype, 5)
    assert_as_exact(back(ops.combine), back(references.combine), [rows, weights])


def test_what_nobody_chose_is_zero_and_gets_no_gradient() -> None:
    place, num_rows = choices(4, 2, 5)
    nobody = sorted(set(range(num_rows)) - set(place.flatten().tolist()))
    assert not ops.dispatch(torch.ones(4, 3), place, num_rows)[nobody].any()
    rows = torch.full((num_rows, 3), 7.0).requires_grad_()
    ops.combine(rows, place, torch.ones(4, 2)).sum().backward()
    assert rows.grad is not None
    assert rows.grad[nobody].abs().max() == 0
    assert ops.dispatch(torch.ones(0, 3), torch.empty(0, 2, dtype=torch.long), 4).tolist() == [[0.0] * 3] * 4


def test_choices_in_the_order_of_experts() -> None:
    chosen = torch.tensor([[3, 0], [3, 5], [0, 3]])
    place, ends = order(chosen, 6)
    assert place.tolist() == [[2, 0], [3, 5], [1, 4]]
    assert ends.tolist() == [0, 2, 2, 2, 5, 5, 6]
    with ops.plain_pytorch():
        assert all(map(torch.equal, order(chosen, 6), (place, ends)))
    assert order(torch.empty(0, 2, dtype=torch.long), 3)[1].tolist() == [0, 0, 0, 0]


@needs_native
def test_an_expert_that_does_not_exist_is_named() -> None:
    with pytest.raises(RuntimeError, match="experts must lie in 0 to 2, got 3"):
        order(torch.tensor([[3]]), 3)


@needs_native
def test_opcheck() -> None:
    x, gate_up = draw((4, 6), torch.float32, 1).requires_grad_(), draw((3, 10), torch.float32, 2).requires_grad_()
    heads, angles = draw((4, 3, 8), torch.float32, 3).requires_grad_(), draw((4, 4), torch.float32, 4)
    place, num_rows = choices(4, 2, 3)
    rows = draw((num_rows, 6), torch.float32, 5).requires_grad_()
    weights = torch.rand(4, 2).requires_grad_()
    check, own = torch.library.opcheck, torch.ops.foveate
    check(own.silu_mul.default, (gate_up,))
    check(own.silu_mul_backward.default, (torch.rand(3, 5), gate_up.detach()))
    check(own.rotate.default, (heads, angles.cos(), angles.sin(), False))
    check(own.rotate.default, (heads, angles.cos(), angles.sin(), True))
    check(own.moe_order.default, (torch.tensor([[2, 0], [2, 2]]), 3))
    check(own.moe_dispatch.default, (x, place, None, num_rows))
    check(own.moe_dispatch.default, (x, place, weights, num_rows))
    check(own.moe_combine.default, (rows, place, None))
    check(own.moe_combine.default, (rows, place, weights))
    check(own.moe_dots.default, (x.detach(), rows.detach(), place))


def test_gradients_of_plain_pytorch() -> None:
    place, num_rows = choices(3, 2, 2)
    x, rows = draw((3, 4), torch.float64, 1).requires_grad_(), draw((num_rows, 4), torch.float64, 2).requires_grad_()
    weights = torch.rand(3, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: ops.dispatch(t, place, num_rows), (x,))
    assert torch.autograd.gradcheck(lambda t, w: ops.combine(t, place, w), (rows, weights))
    assert torch.autograd.gradcheck(ops.silu_mul, (x,))


@needs_native
def test_plain_pytorch_can_be_had_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    gate_up, calls = draw((3, 8), torch.float32, 1), []
    native = torch.ops.foveate.silu_mul
    monkeypatch.setattr(torch.ops.foveate, "silu_mul", lambda x: calls.append(len(x)) or native(x))
    with ops.plain_pytorch():
        assert not ops.is_native()
        plain = ops.silu_mul(gate_up)
    assert (ops.is_native(), calls) == (True, [])
    torch.testing.assert_close(ops.silu_mul(gate_up), plain)
    assert calls == [3]


@needs_native
@pytest.mark.usefixtures("threads", "isa")
def test_the_number_of_threads_changes_no_bit() -> None:
    place, num_rows = choices(700, 4, 60)
    x, gate_up = draw((700, 96), torch.bfloat16, 1), draw((900, 160), torch.bfloat16, 2)
    heads, angles = draw((700, 4, 64), torch.bfloat16, 3), draw((700, 32), torch.float32, 4)
    rows, weights = draw((num_rows, 96), torch.bfloat16, 5), torch.rand(700, 4)
    own = torch.ops.foveate
    runs = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        runs.append([
            ops.silu_mul(gate_up), own.silu_mul_backward(gate_up[:, :80], gate_up),
            ops.rotate(heads, (angles.cos(), angles.sin())), ops.dispatch(x, place, num_rows),
            ops.combine(rows, place, weights), own.moe_dots(x, rows, place),
        ])  # fmt: skip
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert torch.equal(one, two)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"silu_mul got shape \[2, 5\]; it must end in an even size"):
        ops.silu_mul(torch.rand(2, 5))
    with pytest.raises(ValueError, match=r"rotate got x of shape \[2, 1, 4\] and tables of shapes \[\[2, 4\]"):
        ops.rotate(torch.rand(2, 1, 4), (torch.rand(2, 4), torch.rand(2, 4)))


@needs_native
def test_places_out_of_range_are_refused() -> None:
    place = torch.tensor([[0, 4]])
    with pytest.raises(RuntimeError, match="place must name rows from 0 to 3"):
        ops.dispatch(torch.rand(1, 3), place, 4)
    with pytest.raises(RuntimeError, match="place must name rows from 0 to 3"):
        ops.combine(torch.rand(4, 3), place, torch.rand(1, 2))
    with pytest.raises(RuntimeError, match=r"weights must have the shape of place \[1, 2\], got \[2, 1\]"):
        ops.combine(torch.rand(5, 3), place, torch.rand(2, 1))
