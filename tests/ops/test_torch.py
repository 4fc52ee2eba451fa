"""What torch asks of every operation: a graph without a break, derivatives forward, and no silent zero in any way."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from needs import needs_native
from torch import Tensor
from torch.autograd import forward_ad

from foveate import ops
from references import draw

Run = Callable[[Tensor], Tensor]
PLACE = torch.tensor([[3, 0], [1, 4], [5, 2]])
CHOSEN, WEIGHTS = torch.tensor([[1, 0], [2, 2], [0, 1]]), torch.full((3, 2), 0.5)
ANGLES = draw((3, 4), torch.float32, 5)
SLOTS, LENGTHS = torch.tensor([1, 0, 1]), torch.tensor([4, 2, 6])

CACHE = draw((2, 6, 1, 8), torch.float32, 6)
MATRIX, BIAS = draw((5, 8), torch.float32, 2), draw((5,), torch.float32, 3)
GATE_UP, DOWN = draw((3, 8, 8), torch.float32, 2), draw((3, 8, 4), torch.float32, 3)
RUNS: dict[str, Run] = {
    "rms_norm": lambda x: ops.rms_norm(x, x[0], 1e-6),
    "silu_mul": ops.silu_mul,
    "rotate": lambda x: ops.rotate(x[:, None], (ANGLES.cos(), ANGLES.sin())),
    "dispatch": lambda x: ops.dispatch(x, PLACE, 7),
    "combine": lambda x: ops.combine(x.repeat(2, 1), PLACE, WEIGHTS),
    "route": lambda x: ops.route(x, 3)[1],
    "packed_attention": lambda x: ops.packed_attention(x[:, None], x[:, None], x[:, None], ops.Packing([1, 2])),
    "window_attention": lambda x: ops.window_attention(
        x.repeat(1, 3), (ANGLES.cos(), ANGLES.sin()), ops.Packing([1, 2]), 1
    ),
}
"""With a gradient, of x [3, 8]."""
WITHOUT: dict[str, Run] = {
    "linear": lambda x: ops.linear(x, MATRIX, BIAS),
    "linear_f32": lambda x: ops.linear_f32(x, MATRIX),
    "experts_forward": lambda x: ops.experts_forward(x, CHOSEN, WEIGHTS, GATE_UP, DOWN),
    "decode_attention": lambda x: ops.decode_attention(x[:, None], CACHE, CACHE[..., :5], SLOTS, LENGTHS, 6),
}


@needs_native
@pytest.mark.parametrize("name", [*RUNS, *WITHOUT])
def test_a_graph_has_no_break(name: str) -> None:
    run, x = (RUNS | WITHOUT)[name], draw((3, 8), torch.float32, 1)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), run(x), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by torch's make_dual
@pytest.mark.parametrize("name", [*RUNS, *WITHOUT])
def test_a_derivative_forward_is_the_gradient(name: str) -> None:
    """Along a tangent t it is d with d w = g t for the gradient g of a sum weighted by w."""
    run, (x, tangent) = (RUNS | WITHOUT)[name], draw((2, 3, 8), torch.float32, 1)
    out, along = torch.func.jvp(run, (x,), (tangent,))
    leaf, weight = x.clone().requires_grad_(), draw(tuple(out.shape), torch.float32, 9)
    (grad,) = torch.autograd.grad((run(leaf) * weight).sum(), leaf)
    torch.testing.assert_close((along * weight).sum(), (grad * tangent).sum())
    torch.testing.assert_close(out, run(x))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(run(forward_ad.make_dual(x, tangent)))
    assert dual.tangent is not None
    assert torch.equal(dual.tangent, along)


@pytest.mark.parametrize("name", [*RUNS, *WITHOUT])
def test_a_gradient_as_a_function_is_the_gradient(name: str) -> None:
    """By torch.func, and of each row of a batch by itself."""
    run, xs = (RUNS | WITHOUT)[name], draw((2, 3, 8), torch.float32, 1)
    weight = draw(tuple(run(xs[0]).shape), torch.float32, 9)

    def weighed(x: Tensor) -> Tensor:
        return (run(x) * weight).sum()

    wanted = []
    for x in xs:
        leaf = x.clone().requires_grad_()
        wanted += torch.autograd.grad(weighed(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(weighed)(xs[0]), wanted[0])
    if name not in {"dispatch", "combine", "route", "experts_forward"}:  # which lay rows out by what they hold
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(weighed))(xs), torch.stack(wanted))


@pytest.mark.parametrize("name", ["rotate", "window_attention"])
def test_learned_angles_have_their_gradient(name: str) -> None:
    x, grads = draw((3, 8), torch.float32, 1), list[Tensor]()
    for plain in (False, True):
        angles = ANGLES.clone().requires_grad_()
        tables = (angles.cos(), angles.sin())
        with ops.plain_pytorch() if plain else nullcontext():
            if name == "rotate":
                out = ops.rotate(x[:, None], tables)
            else:
                out = ops.window_attention(x.repeat(1, 3), tables, ops.Packing([1, 2]), 1)
        grads += torch.autograd.grad(out.square().cumsum(0).sum(), angles)
    assert grads[0].any()
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("tokens", [4, 400])
def test_autocast_gives_one_dtype_however_many_tokens_come(tokens: int) -> None:
    x = draw((tokens, 8), torch.float32, 1)
    chosen = torch.arange(2 * tokens).view(tokens, 2) % 3
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        product = ops.linear(x, MATRIX, BIAS)
        rounded = ops.linear(x, ops.Int8Rows.of(MATRIX), BIAS)
        summed = ops.experts_forward(x, chosen, torch.full((tokens, 2), 0.5), GATE_UP, DOWN)
    assert {made.dtype for made in (product, rounded, summed)} == {torch.bfloat16}


@pytest.mark.parametrize("queries", [3, 1])
def test_under_autocast_attention_takes_several_dtypes(queries: int) -> None:
    """As queries and keys that were normed in f32 beside values of bf16."""
    q, k, v = (
        draw((queries, 1, 8), torch.float32, 1),
        draw((3, 1, 8), torch.float32, 2),
        draw((3, 1, 8), torch.bfloat16, 3),
    )
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        if queries == 3:
            out = ops.packed_attention(q, k, v, ops.Packing([3]))
        else:
            out = ops.decode_attention(q, k[None], v[None], torch.tensor([0]), torch.tensor([3]), 3)
    wanted = (q[:, 0] @ k[:, 0].T * 8**-0.5).softmax(-1) @ v[:, 0].float()
    torch.testing.assert_close(out[:, 0].float(), wanted, rtol=0.02, atol=0.02)


def test_a_packing_that_was_looked_through_first_can_be_trained_with() -> None:
    x, packing = draw((3, 1, 8), torch.float32, 1).requires_grad_(), ops.Packing([1, 2])
    with torch.inference_mode():
        ops.packed_attention(x, x, x, packing)
    ops.packed_attention(x, x, x, packing).sum().backward()
    assert x.grad is not None


def test_plain_pytorch_in_two_threads_ends_with_the_second() -> None:
    before = ops.is_native()
    first, second = ops.plain_pytorch(), ops.plain_pytorch()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not ops.is_native()
    second.__exit__(None, None, None)
    assert ops.is_native() == before


@needs_native
@pytest.mark.parametrize("constant", [False, True], ids=["of a sum of squares", "of a sum"])
@pytest.mark.parametrize("name", RUNS)
def test_a_second_derivative_is_right_or_refused(name: str, constant: bool) -> None:
    """Those that are linear in x have one; a gradient by a kernel of ours has none, which is said.

    Also where the gradient that comes in is a constant, while what comes before the kernel has a second derivative.
    """

    def twice(run: Run, x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        out = run(leaf**3)
        (grad,) = torch.autograd.grad(out.sum() if constant else out.square().sum(), leaf, create_graph=True)
        grad.square().sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    x = draw((3, 8), torch.float32, 1)
    if name in {"rotate", "dispatch"}:
        with ops.plain_pytorch():
            wanted = twice(RUNS[name], x)
        torch.testing.assert_close(twice(RUNS[name], x), wanted)
    else:
        with pytest.raises(RuntimeError, match="has no derivative itself"):
            twice(RUNS[name], x)


@needs_native
def test_a_first_derivative_with_a_graph_comes_through_a_checkpoint_of_activations() -> None:
    x = draw((3, 8), torch.float32, 1).requires_grad_()
    (wanted,) = torch.autograd.grad(ops.silu_mul(x).sum(), x)
    out = torch.utils.checkpoint.checkpoint(ops.silu_mul, x, use_reentrant=False)
    (found,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    torch.testing.assert_close(found, wanted)


@needs_native
def test_a_hessian_of_a_kernel_is_refused_and_not_zero() -> None:
    with pytest.raises(RuntimeError, match="has no derivative itself"):
        torch.autograd.functional.hessian(lambda x: ops.silu_mul(x).sum(), torch.randn(8))
    with ops.plain_pytorch():
        assert torch.autograd.functional.hessian(lambda x: ops.silu_mul(x).sum(), torch.randn(8)).abs().sum() > 0
