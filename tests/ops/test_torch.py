"""What torch asks of every operation: a graph without a break, derivatives forward, and no silent zero in any way."""

from collections.abc import Callable

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


@needs_native
@pytest.mark.parametrize("name", RUNS)
def test_a_second_derivative_is_right_or_refused(name: str) -> None:
    """Those that are linear in x have one; a gradient by a kernel of ours has none, which is said."""

    def twice(run: Run, x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(run(leaf).square().sum(), leaf, create_graph=True)
        grad.square().sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    x = draw((3, 8), torch.float32, 1)
    if name in {"rotate", "dispatch"}:
        with ops.plain_pytorch():
            wanted = twice(RUNS[name], x)
        torch.testing.assert_close(twice(RUNS[name], x), wanted)
    else:
        with pytest.raises(RuntimeError, match="once_differentiable"):
            twice(RUNS[name], x)
