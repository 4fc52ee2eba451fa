"""RMSNorm equals its reference, forward and backward, with and without a residual.

Proved: the error against a wider reference is at most twice that of plain PyTorch in the same dtype plus one
rounding, on every instruction set; gradients by gradcheck; opcheck's contract (schema, fake kernel, autograd, compile);
odd sizes, no rows, strided and expanded inputs; equal bits with 1, 2 and 5 threads; a NaN stays in its row; what does
not fit is named. Without the extension the same functions run plain PyTorch and one line says so.
"""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from needs import needs_native
from torch import Tensor

from foveate import ops
from references import add_rms_norm, assert_as_exact_as_torch, draw, rms_norm

EPS = 1e-6
SIZES = [(1, 1), (3, 7), (5, 16), (33, 80), (64, 257), (300, 64), (0, 8)]
DTYPES = [torch.bfloat16, torch.float32]


def draw_all(dtype: torch.dtype, *size: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, a residual and a weight that fit."""
    return draw(size, dtype, 1), draw(size, dtype, 2), draw(size[-1:], dtype, 3)


def results(x: Tensor, residual: Tensor | None, weight: Tensor, native: bool) -> list[Tensor]:
    """Outputs, then the gradients of a weighted sum of them, by our operation or by the reference."""
    leaves = [t.clone().requires_grad_() for t in (x, weight)]
    if residual is None:
        call = ops.rms_norm if native else rms_norm
        outputs = [call(leaves[0], leaves[1], EPS)]
    else:
        leaves.append(residual.clone().requires_grad_())
        if native:
            outputs = list(ops.rms_norm(leaves[0], leaves[1], EPS, leaves[2]))
        else:
            outputs = list(add_rms_norm(leaves[0], leaves[2], leaves[1], EPS))
    grads = [draw(tuple(out.shape), torch.bfloat16, 7 + n).to(out.dtype) for n, out in enumerate(outputs)]
    return [*(out.detach() for out in outputs), *torch.autograd.grad(outputs, leaves, grads)]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_forward_and_backward_equal_the_reference(
    size: tuple[int, int], dtype: torch.dtype, with_residual: bool
) -> None:
    x, residual, weight = draw_all(dtype, *size)
    added, wide_added = (residual, residual.double()) if with_residual else (None, None)
    ours, plain = results(x, added, weight, native=True), results(x, added, weight, native=False)
    exact = results(x.double(), wide_added, weight.double(), native=False)
    assert len(ours) == (5 if with_residual else 3)
    for triple in zip(ours, plain, exact, strict=True):
        assert_as_exact_as_torch(*triple)


@pytest.mark.usefixtures("isa")
def test_weight_in_f32_beside_bf16_activations() -> None:
    x, weight = draw((9, 40), torch.bfloat16, 1), draw((40,), torch.float32, 2)
    normed, _, grad = results(x, None, weight, native=True)
    exact, _, exact_grad = results(x.float(), None, weight, native=False)
    rounded, _, rounded_grad = results(x, None, weight.bfloat16(), native=False)
    assert (normed.dtype, grad.dtype) == (torch.bfloat16, torch.float32)
    assert_as_exact_as_torch(normed, rounded, exact)
    assert_as_exact_as_torch(grad, rounded_grad.float(), exact_grad)


def test_gradcheck() -> None:
    x, residual, weight = (t.requires_grad_() for t in draw_all(torch.float64, 4, 6))
    assert torch.autograd.gradcheck(lambda a, w: ops.rms_norm(a, w, EPS), (x, weight))
    assert torch.autograd.gradcheck(lambda a, w, r: ops.rms_norm(a, w, EPS, r), (x, weight, residual))
    assert torch.autograd.gradcheck(lambda a, w, r: ops.rms_norm(a, w, EPS, r)[1], (x, weight, residual))


@needs_native
@pytest.mark.parametrize("rows", [0, 5])
def test_opcheck(rows: int) -> None:
    x, residual, weight = draw_all(torch.float32, rows, 12)
    leaves = [t.requires_grad_() for t in (x, residual, weight)]
    torch.library.opcheck(torch.ops.foveate.rms_norm.default, (leaves[0], leaves[2], EPS))
    torch.library.opcheck(torch.ops.foveate.add_rms_norm.default, (*leaves, EPS))
    inverse = torch.rand(rows)
    backward = torch.ops.foveate.rms_norm_backward.default
    torch.library.opcheck(backward, (x.detach(), None, x.detach(), weight.detach(), inverse))
    torch.library.opcheck(backward, (x.detach(), residual.detach(), x.detach(), weight.detach(), inverse))


def test_compiles_without_a_graph_break() -> None:
    def block(x: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
        normed, total = ops.rms_norm(x, weight, EPS, residual)
        return ops.rms_norm(normed + total, weight, EPS).sin().sum()

    leaves = [t.requires_grad_() for t in draw_all(torch.float32, 6, 10)]
    eager = torch.autograd.grad(block(*leaves), leaves)
    compiled = torch.autograd.grad(torch.compile(block, fullgraph=True, backend="aot_eager")(*leaves), leaves)
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_strided_expanded_and_higher_dimensional_inputs() -> None:
    base, weight = draw((8, 3, 20), torch.float32, 1), draw((20,), torch.float32, 2)
    for x in (base[::2], base.transpose(0, 1), base[:, :1].expand(8, 3, 20), base[:, :, ::2].expand(8, 3, 10)):
        scale = weight[: x.shape[-1]]
        torch.testing.assert_close(ops.rms_norm(x, scale, EPS), rms_norm(x, scale, EPS))
    leaf = base.clone().requires_grad_()
    ops.rms_norm(leaf, weight, EPS).sum().backward()  # sum() hands over a gradient of stride 0
    twin = base.clone().requires_grad_()
    rms_norm(twin, weight, EPS).sum().backward()
    torch.testing.assert_close(leaf.grad, twin.grad)


@needs_native
@pytest.mark.usefixtures("threads", "isa")
def test_the_number_of_threads_changes_no_bit() -> None:
    x, residual, weight = draw_all(torch.bfloat16, 1000, 96)
    runs = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        runs.append(results(x, residual, weight, native=True))
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert torch.equal(one, two)


@pytest.mark.usefixtures("isa")
def test_a_nan_stays_in_its_row() -> None:
    x = draw((4, 24), torch.float32, 1)
    x[2, 5] = float("nan")
    normed = ops.rms_norm(x, torch.ones(24), EPS)
    assert normed[2].isnan().all()
    assert normed[[0, 1, 3]].isfinite().all()


@pytest.mark.usefixtures("isa")
def test_zero_and_huge_rows_are_finite() -> None:
    x = torch.stack([torch.zeros(32), torch.full((32,), 1e15)]).bfloat16()
    normed = ops.rms_norm(x, torch.ones(32), EPS)
    assert torch.equal(normed, torch.stack([torch.zeros(32), torch.ones(32)]).bfloat16())


def test_dtypes_that_the_kernel_does_not_know_together_go_as_in_plain_pytorch() -> None:
    x, residual, weight = (draw((2, 4), torch.float32, 1), draw((2, 4), torch.bfloat16, 2), torch.ones(4).bfloat16())
    torch.testing.assert_close(ops.rms_norm(x, weight, EPS), rms_norm(x, weight.float(), EPS))
    both = ops.rms_norm(x, weight.float(), EPS, residual)
    torch.testing.assert_close(both, add_rms_norm(x, residual.float(), weight.float(), EPS))


def test_wrong_shapes_are_named() -> None:
    x = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"x of shape \[2, 4\] and weight of shape \[3\]"):
        ops.rms_norm(x, torch.ones(3), EPS)
    with pytest.raises(ValueError, match=r"residual of shape \[2, 3\]"):
        ops.rms_norm(x, torch.ones(4), EPS, torch.zeros(2, 3))


@needs_native
def test_native_checks_name_the_argument() -> None:
    x = torch.zeros(2, 4)
    with pytest.raises(RuntimeError, match=r"residual must have the dtype of x, float32; got bfloat16"):
        torch.ops.foveate.add_rms_norm(x, torch.zeros(2, 4, dtype=torch.bfloat16), torch.ones(4), EPS)
    with pytest.raises(RuntimeError, match=r"weight must have the dtype of x, float32, or be float32; got float16"):
        torch.ops.foveate.rms_norm(x, torch.ones(4).half(), EPS)
    with pytest.raises(RuntimeError, match=r"grad_total must have the shape of x \[2, 4\], got \[2, 3\]"):
        torch.ops.foveate.rms_norm_backward(x, torch.ones(2, 3), x, torch.ones(4), torch.ones(2))
    with pytest.raises(RuntimeError, match=r"inverse_rms must be float32 .* \[2, 4\], got shape \[2\] of float64"):
        torch.ops.foveate.rms_norm_backward(x, None, x, torch.ones(4), torch.ones(2).double())
    with pytest.raises(RuntimeError, match=r"grad_normed must have the shape of x \[2, 4\], got \[3\]"):
        torch.ops.foveate.rms_norm_backward(torch.ones(3), None, x, torch.ones(4), torch.ones(2))


WITHOUT_EXTENSION = """
import sys
sys.modules["foveate._C"] = None  # what an import of a module that cannot be loaded looks like
import torch
from foveate import ops
from references import add_rms_norm, rms_norm
x, residual, weight = torch.randn(5, 9), torch.randn(5, 9), torch.randn(9)
torch.testing.assert_close(ops.rms_norm(x, weight, 1e-6), rms_norm(x, weight, 1e-6))
torch.testing.assert_close(ops.rms_norm(x, weight, 1e-6, residual), add_rms_norm(x, residual, weight, 1e-6))
print(ops.is_native(), ops.backend())
"""


def test_without_the_extension_plain_pytorch_runs_and_says_so_once() -> None:
    tests = str(Path(__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {tests!r})" + WITHOUT_EXTENSION],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("False plain PyTorch (the extension cannot be loaded: ")
    assert run.stderr.count("plain PyTorch") == 1


@needs_native
def test_reports_the_processor() -> None:
    from foveate import _C

    said = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    flags = set(said[1].split()) if said else set()
    theirs = {"avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16"}
    features = _C.cpu_features()
    assert features == {name: theirs.get(name, name) in flags for name in features}
    assert len(features) == 11 or platform.machine() != "x86_64"
    assert ops.backend().startswith("native kernels")


@pytest.mark.skipif(not os.environ.get("CI"), reason="a checkout may be built without a compiler; CI must have one")
def test_continuous_integration_runs_the_native_kernels() -> None:
    assert ops.is_native(), ops.backend()
