"""Packed and window attention equal attention of each sequence alone, forward and gradient, on every instruction set.

Proved for each: the error against f64 is at most twice that of PyTorch's fused attention in the same dtype plus one
rounding; odd lengths and head sizes, empty and single-token sequences, no tokens, shared key heads, strided inputs;
opcheck's contract, torch.compile, gradcheck of the plain form; queries of the last tokens alone equal, as nearly, those
among queries of all; equal bits with 1, 2 and 5 threads; a NaN stays in its
sequence, and one in a key under a causal mask with the tokens after it; what does not fit is named.
"""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from needs import needs_native
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import references
from foveate import ops
from foveate.ops import Packing, attention, packed_attention, prefix_attention, window_attention
from references import assert_as_exact_as_torch, draw

DTYPES = [torch.bfloat16, torch.float32]
LENGTHS = [[64, 64, 16, 4], [0, 3, 0, 130, 1], [261], []]
SHAPES = [(4, 2, 64), (1, 1, 80), (3, 1, 72), (2, 2, 128), (2, 1, 7)]
"""Query heads, key heads, head size."""


def draw_qkv(lengths: list[int], shape: tuple[int, int, int], dtype: torch.dtype) -> list[Tensor]:
    """q, k and v of so many tokens."""
    heads, key_heads, dim = shape
    return [draw((sum(lengths), count, dim), dtype, seed) for seed, count in enumerate((heads, key_heads, key_heads))]


def draw_windows(lengths: list[int], num_heads: int, dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A packed projection, cosines and sines."""
    angles = draw((sum(lengths), dim // 2), torch.float32, 5) * 3
    return draw((sum(lengths), 3 * num_heads * dim), dtype, 1), angles.cos(), angles.sin()


def results(run: Callable[..., Tensor], leaves: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The output, then the gradients of a weighted sum of it, computed in a dtype."""
    own = [leaf.to(dtype, copy=True).requires_grad_() for leaf in leaves]
    out = run(*own)
    weight = draw(tuple(out.shape), leaves[0].dtype, 9).to(dtype)
    grads = torch.autograd.grad((out * weight).sum(), own, allow_unused=True, materialize_grads=True)
    return [out.detach(), *grads]


Lengths = list[int]
Attend = Callable[[Tensor, Tensor, Tensor, Lengths, bool], Tensor]


def assert_as_exact(ours: Callable[..., Tensor], reference: Callable[..., Tensor], leaves: list[Tensor]) -> None:
    """Outputs and gradients of ours against reference(..., attend), step by step in f64 and fused in the same dtype."""
    dtype = leaves[0].dtype
    fused = results(lambda *x: reference(*x, references.fused_attention), leaves, dtype)
    exact = results(lambda *x: reference(*x, references.packed_attention), leaves, torch.float64)
    for triple in zip(results(ours, leaves, dtype), fused, exact, strict=True):
        assert_as_exact_as_torch(*triple)


def assert_packed_as_exact(lengths: Lengths, shape: tuple[int, int, int], dtype: torch.dtype, causal: bool) -> None:
    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return packed_attention(q, k, v, Packing(lengths), causal=causal)

    def reference(q: Tensor, k: Tensor, v: Tensor, attend: Attend) -> Tensor:
        return attend(q, k, v, lengths, causal)

    assert_as_exact(ours, reference, draw_qkv(lengths, shape, dtype))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_attention_equals_each_sequence_alone(
    shape: tuple[int, int, int], dtype: torch.dtype, causal: bool, isa: str
) -> None:
    for lengths in LENGTHS:
        assert_packed_as_exact(lengths, shape, dtype, causal)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_sequences_longer_than_a_part_of_the_work(causal: bool, dtype: torch.dtype, isa: str) -> None:
    assert_packed_as_exact([1030, 1, 515], (1, 1, 32), dtype, causal)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 2, 192)])
@pytest.mark.parametrize(("num_tokens", "past"), [(1, 0), (5, 0), (3, 130), (260, 17)])
def test_prefix_attention_is_the_end_of_a_causal_one(
    num_tokens: int, past: int, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    whole = draw_qkv([past + num_tokens], shape, dtype)
    room = torch.full((2, shape[1], past + num_tokens + 9, shape[2]), float("nan"), dtype=dtype).transpose(1, 2)
    room[:, : past + num_tokens] = torch.stack(whole[1:])
    results = [
        run(*(x.to(kind) for x in whole), [past + num_tokens], True)[past:]
        for run, kind in ((references.fused_attention, dtype), (references.packed_attention, torch.float64))
    ]
    ours = prefix_attention(whole[0][past:], *room[:, : past + num_tokens])
    assert_as_exact_as_torch(ours, *results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_queries_of_the_last_tokens_alone(
    shape: tuple[int, int, int], causal: bool, dtype: torch.dtype, isa: str
) -> None:
    lengths, few = [150, 9, 0, 300, 7], [60, 9, 0, 0, 1]
    asked = torch.cat([torch.arange(all_) >= all_ - some for all_, some in zip(lengths, few, strict=True)])

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return packed_attention(q, k, v, Packing(lengths), causal=causal, queries=Packing(few))

    def with_others(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        whole = q.new_zeros(len(asked), *q.shape[1:]).index_put((asked.nonzero()[:, 0],), q)
        return packed_attention(whole, k, v, Packing(lengths), causal=causal)[asked]

    q, k, v = draw_qkv(lengths, shape, dtype)
    leaves = [q[asked], k, v]
    exact = results(with_others, leaves, torch.float64)
    for triple in zip(results(ours, leaves, dtype), results(with_others, leaves, dtype), exact, strict=True):
        assert_as_exact_as_torch(*triple)
    torch.testing.assert_close(results(ours, leaves, torch.float64), exact)


def test_prefix_attention_without_tokens_and_in_plain_pytorch() -> None:
    q, k, v = draw_qkv([40], (4, 2, 16), torch.float64)
    wanted = references.packed_attention(q, k, v, [40], True)[30:]
    torch.testing.assert_close(prefix_attention(q[30:], k, v), wanted)
    assert prefix_attention(q[:0].float(), k.float(), v.float()).shape == (0, 4, 16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 80, 72, 128, 4])
def test_window_attention_equals_its_steps(dim: int, dtype: torch.dtype, isa: str) -> None:
    for lengths in LENGTHS:
        qkv, cos, sin = draw_windows(lengths, 3, dim, dtype)

        def ours(x: Tensor, tables: ops.Tables = (cos, sin), packing: Packing = Packing(lengths)) -> Tensor:  # noqa: B008
            return window_attention(x, tables, packing, 3)

        def reference(x: Tensor, attend: Attend, tables: ops.Tables = (cos, sin), lengths: Lengths = lengths) -> Tensor:
            return references.window_attention(x, *tables, lengths, 3, attend)

        assert_as_exact(ours, reference, [qkv])


def test_large_scores_do_not_overflow(isa: str) -> None:
    q, k, v = (100 * x for x in draw_qkv([200], (1, 1, 64), torch.float32))
    plain, wanted = (
        references.packed_attention(q.to(dtype), k.to(dtype), v.to(dtype), [200], causal=True)
        for dtype in (torch.float32, torch.float64)
    )
    assert_as_exact_as_torch(packed_attention(q, k, v, Packing([200]), causal=True), plain, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [3e3, 3e4, 1e6])
def test_scores_larger_than_whole_numbers_are_exact(size: float, dtype: torch.dtype, isa: str) -> None:
    leaves = [x * factor for x, factor in zip(draw_qkv([64], (1, 1, 64), dtype), (size, size, 1), strict=True)]
    out, *grads = results(lambda *x: packed_attention(*x, Packing([64])), leaves, dtype)
    q, k, v = (x.double() for x in leaves)
    best = (q[:, 0] @ k[:, 0].T).argmax(-1)
    torch.testing.assert_close(out[:, 0].double(), v[best, 0], msg="one key takes all attention")
    assert all(grad.isfinite().all() for grad in grads)


def test_strided_inputs(isa: str) -> None:
    lengths = [9, 70]
    both = draw((79, 6, 2 * 16), torch.float32, 1)
    q, k, v = both[:, :2, ::2], both[:, 2:4, :16], both.transpose(0, 1).contiguous().transpose(0, 1)[:, 4:, 16:]
    wanted = references.packed_attention(q, k, v, lengths, causal=True)
    torch.testing.assert_close(packed_attention(q, k, v, Packing(lengths), causal=True), wanted)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    packed_attention(*leaves, Packing(lengths)).sum().backward()  # sum() hands over a gradient of stride 0
    twins = [x.clone().requires_grad_() for x in (q, k, v)]
    references.packed_attention(*twins, lengths, causal=False).sum().backward()
    for one, other in zip(leaves, twins, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_nan_stays_in_its_sequence_and_behind_it(isa: str) -> None:
    for at, causal in ((1, True), (2, False)):  # a key, a value
        qkv = draw_qkv([5, 20, 7], (2, 1, 16), torch.float32)
        qkv[at][12, 0, 3] = float("nan")
        bad = packed_attention(*qkv, Packing([5, 20, 7]), causal=causal).isnan().flatten(1).any(1)
        first = 12 if causal else 5
        assert bad.tolist() == [first <= token < 25 for token in range(32)]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, isa: str) -> None:
    """With five threads the gradients of the longest sequence are computed in pieces."""
    lengths, asked = [300, 64, 64, 1, 0, 90], Packing([260, 64, 0, 1, 0, 50])
    packing, runs = Packing(lengths), []
    qkv, cos, sin = draw_windows(lengths, 2, 16, dtype)
    queries, *cache = draw_qkv(lengths, (4, 2, 16), dtype)
    leaves = [queries[: sum(asked.lengths)], *cache]
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        packed = results(lambda *x: packed_attention(*x, packing, causal=True, queries=asked), leaves, dtype)
        runs.append([*packed, *results(lambda x: window_attention(x, (cos, sin), packing, 2), [qkv], dtype)])
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            assert torch.equal(one, two)


@needs_native
@pytest.mark.parametrize("lengths", [[], [5, 0, 12]])
def test_opcheck(lengths: list[int]) -> None:
    q, k, v = (x.requires_grad_() for x in draw_qkv(lengths, (4, 2, 8), torch.float32))
    ends = Packing(lengths).ends(q.device)
    packed, windows = torch.ops.foveate.packed_attention, torch.ops.foveate.window_attention
    few = Packing([length // 2 for length in lengths])
    for asked, queries in ((ends, q), (few.ends(q.device), q[: sum(few.lengths)].detach().requires_grad_())):
        torch.library.opcheck(packed.default, (queries, k, v, ends, asked, True))
    qkv, cos, sin = draw_windows(lengths, 2, 8, torch.float32)
    torch.library.opcheck(windows.default, (qkv.requires_grad_(), cos, sin, ends, 2))
    q, k, v, qkv = (x.detach() for x in (q, k, v, qkv))
    saved = packed(q, k, v, ends, ends, True)
    torch.library.opcheck(torch.ops.foveate.packed_attention_backward.default, (q, q, k, v, ends, ends, True, *saved))
    saved = windows(qkv, cos, sin, ends, 2)
    backward = torch.ops.foveate.window_attention_backward.default
    torch.library.opcheck(backward, (saved[0], qkv, cos, sin, ends, 2, *saved))


def test_compiles_without_a_graph_break() -> None:
    packing = Packing([3, 6])
    qkv, cos, sin = draw_windows([3, 6], 2, 8, torch.float32)

    def block(x: Tensor) -> Tensor:
        out = window_attention(x, (cos, sin), packing, 2).unflatten(-1, (2, -1))
        return packed_attention(out, out, out.sin(), packing, causal=True).cos().sum()

    leaf = qkv.requires_grad_()
    (eager,) = torch.autograd.grad(block(leaf), leaf)
    (compiled,) = torch.autograd.grad(torch.compile(block, fullgraph=True, backend="aot_eager")(leaf), leaf)
    torch.testing.assert_close(eager, compiled, rtol=0, atol=0)


def test_f64_runs_plain_pytorch() -> None:
    lengths = [2, 0, 3]
    q, k, v = (x.requires_grad_() for x in draw_qkv(lengths, (2, 1, 4), torch.float64))
    assert torch.autograd.gradcheck(lambda *x: packed_attention(*x, Packing(lengths), causal=True), (q, k, v))
    qkv, cos, sin = draw_windows(lengths, 2, 4, torch.float64)
    leaf = qkv.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: window_attention(x, (cos, sin), Packing(lengths), 2), (leaf,))


def test_wrong_packings_are_named() -> None:
    q, k, v = draw_qkv([4], (2, 1, 8), torch.float32)
    with pytest.raises(ValueError, match="the packing holds 5 tokens, the batch 4"):
        packed_attention(q, k, v, Packing([5]))
    with pytest.raises(ValueError, match="the packing holds 3 tokens, the batch 4"):
        window_attention(q.flatten(1), (q[:, 0], q[:, 0]), Packing([3]), 1)
    with pytest.raises(ValueError, match=r"got \[0, 4\] queries for sequences of \[1, 3\] tokens"):
        packed_attention(q, k, v, Packing([1, 3]), queries=Packing([0, 4]))


@needs_native
def test_native_checks_name_the_argument() -> None:
    q, k, v = draw_qkv([4], (2, 1, 8), torch.float32)
    ends = torch.tensor([0, 4], dtype=torch.int32)
    packed, windows = torch.ops.foveate.packed_attention, torch.ops.foveate.window_attention
    with pytest.raises(RuntimeError, match="G a divisor of H; got"):
        packed(q[:, :1], draw((4, 2, 8), torch.float32, 1), draw((4, 2, 8), torch.float32, 1), ends, ends, False)
    with pytest.raises(RuntimeError, match="ends must rise from 0 to the number of tokens, 4; got 0 to 3"):
        packed(q, k, v, torch.tensor([0, 3], dtype=torch.int32), ends, False)
    with pytest.raises(RuntimeError, match="ends must rise from 0 to 4; number 2 is 1, the one before it 3"):
        packed(q, k, v, torch.tensor([0, 3, 1, 4], dtype=torch.int32), ends, False)
    with pytest.raises(RuntimeError, match=r"v must have the dtype of q, float32; got bfloat16"):
        packed(q, k, v.bfloat16(), ends, ends, False)
    with pytest.raises(RuntimeError, match=r"k must be \[C, G, D\] .* got \[4, 1, 7\] for a q of \[4, 2, 8\]"):
        packed(q, k[..., :7], v, ends, ends, False)
    with pytest.raises(RuntimeError, match=r"ends must be a contiguous int32 tensor .* got shape \[2\] of int64"):
        packed(q, k, v, ends.long(), ends, False)
    with pytest.raises(RuntimeError, match="q must be bfloat16 or float32, got float64"):
        packed(q.double(), k.double(), v.double(), ends, ends, False)
    with pytest.raises(RuntimeError, match="query_ends must rise from 0 to the number of tokens, 4; got 0 to 3"):
        packed(q, k, v, ends, torch.tensor([0, 3], dtype=torch.int32), False)
    with pytest.raises(RuntimeError, match="ends and query_ends must tell of as many sequences, got 1 and 2"):
        packed(q, k, v, ends, torch.tensor([0, 2, 4], dtype=torch.int32), False)
    two = (torch.tensor(some, dtype=torch.int32) for some in ([0, 1, 4], [0, 3, 4]))
    with pytest.raises(RuntimeError, match="sequence 0 has more queries, 3, than tokens, 1"):
        packed(q, k, v, *two, False)
    qkv, cos, sin = draw_windows([4], 2, 8, torch.float32)
    with pytest.raises(RuntimeError, match=r"qkv must hold 3 x num_heads heads of an even size, num_heads 5"):
        windows(qkv, cos, sin, ends, 5)
    with pytest.raises(RuntimeError, match=r"sin must be float32 \[4, 4\], got shape \[4, 3\] of float32"):
        windows(qkv, cos, sin[:, :3], ends, 2)


@pytest.mark.parametrize(
    ("dim", "dtype", "new_enough", "served"),
    [
        (64, torch.bfloat16, True, True), (256, torch.float16, True, True), (64, torch.bfloat16, False, False),
        (64, torch.float32, True, False), (12, torch.bfloat16, True, False), (264, torch.bfloat16, True, False),
    ],
)  # fmt: skip
def test_what_flash_attention_of_torch_serves(
    dim: int, dtype: torch.dtype, new_enough: bool, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "is_new_enough", lambda gpu: new_enough)
    with FakeTensorMode():
        assert attention._is_flash(torch.empty(3, 2, dim, dtype=dtype, device="cuda")) == served
    assert not attention._is_flash(torch.empty(3, 2, dim, dtype=dtype))


FORCED = "from foveate import ops; from foveate import _C; print(_C.isa()); print(ops.backend())"


@needs_native
def test_an_instruction_set_can_be_forced_from_outside(isas: list[str]) -> None:
    def run(name: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "FOVEATE_ISA": name}
        return subprocess.run([sys.executable, "-c", FORCED], env=env, capture_output=True, text=True, check=False)

    real = [name for name in isas if name != "emulated_amx"]
    usual = {name: value for name, value in os.environ.items() if name != "FOVEATE_ISA"}
    chosen = subprocess.run([sys.executable, "-c", FORCED], env=usual, capture_output=True, text=True, check=True)
    assert chosen.stdout.splitlines()[0] == real[-1]
    lines = run(isas[0]).stdout.splitlines()
    assert lines[0] == isas[0]
    assert lines[1].startswith(f"native kernels, {isas[0]} (")
    wrong = run("mmx")
    assert wrong.returncode != 0
    assert "the instruction set is named 'mmx'; wanted one of generic, avx2, avx512, avx512bf16" in wrong.stderr
