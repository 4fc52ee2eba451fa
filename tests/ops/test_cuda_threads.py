"""The CUDA kernels equal their references on a CPU that runs every thread of every block in turn.

Proved, with instructions as the PTX manual says them (tests/ops/cuda_threads.h): every number of a result is written,
from the right rows and columns; nothing outside tensors and shared memory is; copies and rows of ldmatrix are aligned
and each of the latter in banks of its own; no barrier is missing that threads running ahead of others would show. A
tensor on another GPU is named.
"""

import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import references
from references import assert_as_exact_as_torch, draw

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
ROOT = Path(__file__).parents[2]
COMPILER = "g++ -std=c++20 -Og -w -fno-strict-aliasing -U_FORTIFY_SOURCE".split()
HEADERS = ["headeronly/core/ScalarType.h", "headeronly/util/Exception.h",
           *(f"csrc/stable/{name}.h" for name in ("accelerator", "library", "ops", "tensor"))]  # fmt: skip
MAIN = "int main(int, char** names) { return emulated::run(names[1], std::make_index_sequence<4>()); }\n"
PROGRAMS = [["window_attention", "window_attention_backward"], ["decode_attention"],
            ["experts", "moe", "rotate", "silu_mul"]]  # fmt: skip
BF16, F32 = torch.bfloat16, torch.float32
DTYPES = [BF16, F32, torch.int32, torch.int64]
Run = Callable[..., list[Tensor]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Operations by name, in programs that emulate a GPU; torch's headers are empty there."""
    folder, programs = tmp_path_factory.mktemp("cuda"), {}
    for header in HEADERS:
        (folder / "torch" / header).parent.mkdir(parents=True, exist_ok=True)
        (folder / "torch" / header).touch()
    for files in PROGRAMS:
        program, sources = folder / files[0], [ROOT / "csrc/cuda" / f"{file}.cu" for file in files]
        text = "".join(f'#include "{source}"\n' for source in [ROOT / "tests/ops/cuda_torch.h", *sources])
        program.with_suffix(".cpp").write_text(text + MAIN)
        subprocess.run([*COMPILER, f"-I{folder}", f"{program}.cpp", "-o", program], check=True)
        names = re.findall(r'm\.impl\("(\w+)"', "".join(source.read_text() for source in sources))
        programs |= dict.fromkeys(names, program)
    return lambda name, *arguments: call(programs[name], name, arguments)


def call(program: Path, name: str, arguments: tuple[object, ...]) -> list[Tensor]:
    """Results of an operation; `True, x` is an optional tensor, `False` is none and `(x, 1)` lies on another GPU."""
    tensors = [x[0] if isinstance(x, tuple) else x for x in arguments]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in tensors if isinstance(x, Tensor)}
    numbers = [storage.nbytes() for storage in storages.values()]
    for argument in arguments:
        numbers += described(argument, list(storages))
    memories = [torch.tensor([], dtype=torch.uint8).set_(storage).numpy().tobytes() for storage in storages.values()]
    given = b"".join([as_bytes([len(numbers), len(storages), *numbers]), *memories])
    done = subprocess.run([str(program), name], input=given, capture_output=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode())
    return list(unpacked(done.stdout))


def as_bytes(numbers: list[int]) -> bytes:
    return torch.tensor(numbers, dtype=torch.int64).numpy().tobytes()


def described(argument: object, storages: list[int]) -> list[int]:
    """The numbers that the program makes an argument of."""
    x, device = argument if isinstance(argument, tuple) else (argument, 0)
    if isinstance(x, Tensor):
        storage, dtype = storages.index(x.untyped_storage().data_ptr()), DTYPES.index(x.dtype)
        sizes = torch.tensor([x.shape, x.stride()]).T.flatten().tolist()
        return [storage, dtype, device, x.storage_offset(), x.dim(), *sizes]
    return list(struct.unpack("q", struct.pack("d" if isinstance(argument, float) else "q", argument)))


def unpacked(data: bytes) -> Iterator[Tensor]:
    while data:
        dtype, dim, *sizes = torch.frombuffer(bytearray(data[:64]), dtype=torch.int64).tolist()
        sizes = sizes[:dim]
        end = 64 + torch.Size(sizes).numel() * DTYPES[dtype].itemsize
        yield torch.frombuffer(bytearray(data[64:end]), dtype=DTYPES[dtype]).view(sizes)
        data = data[end:]


@pytest.mark.parametrize(("head_dim", "num_heads"), [(16, 3), (32, 1), (64, 2), (72, 1), (80, 2), (96, 1), (128, 1)])
def test_window_attention_and_its_gradient(run: Run, head_dim: int, num_heads: int) -> None:
    lengths = [7, 0, 65]
    tokens = sum(lengths)
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    qkv, weight = draw((tokens, 3 * num_heads * head_dim), BF16, 1), draw((tokens, num_heads * head_dim), BF16, 2)
    angles = draw((tokens, head_dim // 2), F32, 3) * 3
    tables = angles.cos(), angles.sin()

    def plain(dtype: torch.dtype) -> list[Tensor]:
        leaf = qkv.to(dtype, copy=True).requires_grad_()
        out = references.window_attention(leaf, *tables, lengths, num_heads, references.fused_attention)
        return [out.detach(), *torch.autograd.grad((out * weight.to(dtype)).sum(), leaf)]

    out, stats = run("window_attention", qkv, *tables, ends, num_heads)
    (grad,) = run("window_attention_backward", weight, qkv, *tables, ends, num_heads, out, stats)
    for triple in zip([out, grad], plain(BF16), plain(F32), strict=True):
        assert_as_exact_as_torch(*triple)


@pytest.mark.parametrize("size", [1e3, 3e4, 1e6])
def test_window_attention_of_vast_scores_has_a_gradient(run: Run, size: float) -> None:
    """Of each query the weights sum up to 1: so do the gradients of values to those of results."""
    tokens, width = 70, 80
    qkv, weight = draw((tokens, 3 * width), BF16, 1), draw((tokens, width), BF16, 2)
    qkv[:, : 2 * width] *= size
    tables = torch.ones(tokens, width // 2), torch.zeros(tokens, width // 2)
    ends = torch.tensor([0, tokens]).int()
    out, stats = run("window_attention", qkv, *tables, ends, 1)
    (grad,) = run("window_attention_backward", weight, qkv, *tables, ends, 1, out, stats)
    assert grad.isfinite().all()
    torch.testing.assert_close(grad[:, 2 * width :].float().sum(0), weight.float().sum(0), rtol=0.01, atol=0.1)


@pytest.mark.parametrize(
    ("dim", "value_dim", "heads", "key_heads", "longest"),
    [(64, 64, 16, 8, 150), (128, 128, 20, 1, 1100), (256, 256, 2, 2, 150), (576, 512, 17, 1, 1100)],
)
def test_decode_attention(run: Run, dim: int, value_dim: int, heads: int, key_heads: int, longest: int) -> None:
    """Also over several tiles of keys in a block, in a cache as the thinker's lies: the tokens of a head in a row."""
    slots, lengths = [2, 0], [longest, 7]
    q, k = draw((2, heads, dim), BF16, 1), draw((3, key_heads, longest + 50, dim), BF16, 2).transpose(1, 2)
    v = k[..., :value_dim] if value_dim < dim else draw((3, key_heads, longest + 50, dim), BF16, 3).transpose(1, 2)
    (out,) = run("decode_attention", q, k, v, torch.tensor(slots), torch.tensor(lengths), dim**-0.5)
    plain, exact = (references.decode_attention(q.to(t), k.to(t), v.to(t), slots, lengths) for t in (BF16, F32))
    assert_as_exact_as_torch(out, plain, exact)


def test_decode_attention_of_high_scores(run: Run) -> None:
    q, k, v = draw((1, 4, 64), BF16, 1), draw((1, 64, 1, 64), BF16, 2), draw((1, 64, 1, 64), BF16, 3)
    (out,) = run("decode_attention", q, k, v, torch.tensor([0]), torch.tensor([64]), 30.0)
    exact = references.decode_attention(q.float(), k.float(), v.float(), [0], [64], 30.0)
    assert_as_exact_as_torch(out, exact.bfloat16(), exact)


@pytest.mark.parametrize(("tokens", "width", "inner", "num_experts", "top_k"),
                         [(1, 72, 40, 5, 3), (60, 64, 200, 2, 2), (150, 136, 72, 2, 2),
                          (1, 392, 16, 2, 1), (60, 392, 16, 2, 2), (150, 392, 16, 2, 2)])  # fmt: skip
def test_experts(run: Run, tokens: int, width: int, inner: int, num_experts: int, top_k: int) -> None:
    weights, chosen = draw((tokens, num_experts), F32, 1).softmax(-1).topk(top_k)
    x = draw((tokens, width), BF16, 4)
    gate_up = (draw((num_experts, 2 * inner, width), F32, 2) * width**-0.5).to(BF16)
    down = (draw((num_experts, width, inner), F32, 3) * inner**-0.5).to(BF16)
    (out,) = run("moe_experts", x, chosen, weights, gate_up, down, False, False)
    plain, exact = (references.experts(x.to(t), chosen, weights, gate_up.to(t), down.to(t)) for t in (BF16, F32))
    assert_as_exact_as_torch(out, plain, exact)


@pytest.mark.parametrize(("tokens", "num_experts", "top_k"), [(1, 1, 1), (300, 40, 2), (9000, 33, 4)])
def test_order_of_choices(run: Run, tokens: int, num_experts: int, top_k: int) -> None:
    chosen = torch.randint(num_experts, (tokens, top_k))
    place, ends = run("moe_order", chosen, num_experts)
    wanted = torch.empty(tokens * top_k, dtype=torch.int64)
    wanted[chosen.flatten().argsort(stable=True)] = torch.arange(tokens * top_k)
    assert torch.equal(place.flatten(), wanted)
    assert ends.tolist() == [0, *chosen.flatten().bincount(minlength=num_experts).cumsum(0).tolist()]


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_experts(run: Run, weighted: bool) -> None:
    x, weights, place = draw((5, 264), BF16, 1), draw((5, 3), F32, 2), torch.randperm(17)[:15].view(5, 3)
    given = [True, weights] if weighted else [False]
    factors = weights if weighted else torch.ones_like(weights)
    (rows,) = run("moe_dispatch", x, place, *given, 17)
    wanted = references.dispatch(x.float(), place, 17)
    wanted[place] *= factors[:, :, None]
    assert torch.equal(rows, wanted.bfloat16())
    (out,) = run("moe_combine", rows, place, *given)
    exact = references.combine(rows.float(), place, factors)
    assert_as_exact_as_torch(out, exact.bfloat16(), exact)
    (dots,) = run("moe_dots", x, rows, place)
    products = x.float()[:, None] * rows.float()[place]
    assert_as_exact_as_torch(dots, products.sum(-1), products.double().sum(-1))


@pytest.mark.parametrize(("head_dim", "back"), [(12, False), (16, True), (80, False)])
def test_rotate(run: Run, head_dim: int, back: bool) -> None:
    x, angles = draw((9, 7, head_dim), BF16, 1)[:, 2:6], draw((9, head_dim // 2), F32, 2) * 3
    cos, sin = angles.cos(), angles.sin()
    (out,) = run("rotate", x, cos, sin, back)
    plain, exact = (references.rotate(x.to(t), cos, -sin if back else sin) for t in (BF16, F32))
    assert_as_exact_as_torch(out, plain, exact)


def test_gate_and_its_gradient(run: Run) -> None:
    gate_up, weight = draw((3, 41, 48), BF16, 1), draw((3, 41, 24), BF16, 2)

    def plain(dtype: torch.dtype) -> list[Tensor]:
        leaf = gate_up.to(dtype, copy=True).requires_grad_()
        out = references.silu_mul(leaf)
        return [out.detach(), *torch.autograd.grad((out * weight.to(dtype)).sum(), leaf)]

    got = run("silu_mul", gate_up) + run("silu_mul_backward", weight, gate_up)
    for triple in zip(got, plain(BF16), plain(F32), strict=True):
        assert_as_exact_as_torch(*triple)


def small_calls() -> dict[str, tuple[str, dict[str, Tensor], list[object]]]:
    """Each operation of several tensors: the first one's name, all of them, and what else it is given."""
    x, place, weights = draw((2, 16), BF16, 1), torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2)
    tables = {"cos": torch.ones(2, 8), "sin": torch.ones(2, 8)}
    windows = {"qkv": draw((2, 48), BF16, 2), **tables, "ends": torch.tensor([0, 2], dtype=torch.int32)}
    return {
        "rotate": ("x", {"x": x[:, None], **tables}, [False]),
        "silu_mul_backward": ("gate_up", {"grad": x[:, :8].contiguous(), "gate_up": x}, []),
        "moe_dispatch": ("x", {"x": x, "place": place}, [False, 4]),
        "moe_combine": ("rows", {"rows": x.repeat(2, 1), "place": place}, [False]),
        "moe_dots": ("x", {"x": x, "rows": x.repeat(2, 1), "place": place}, []),
        "moe_experts": ("x", {"x": x, "experts": place, "weights": weights, "gate_up": draw((4, 16, 16), BF16, 3),
                              "down": draw((4, 16, 8), BF16, 4)}, [False, False]),
        "decode_attention": ("q", {"q": draw((1, 1, 64), BF16, 5), "k": draw((1, 4, 1, 64), BF16, 6),
                                   "v": draw((1, 4, 1, 64), BF16, 7), "slots": torch.tensor([0]),
                                   "lengths": torch.tensor([4])}, [1.0]),
        "window_attention": ("qkv", windows, [1]),
    }  # fmt: skip


@pytest.mark.parametrize("operation", small_calls())
def test_a_tensor_on_another_gpu_is_named(run: Run, operation: str) -> None:
    first, tensors, others = small_calls()[operation]
    run(operation, *tensors.values(), *others)
    for name in tensors.keys() - {first}:
        apart = [(x, 1) if key == name else x for key, x in tensors.items()]
        with pytest.raises(RuntimeError, match=r"must be on the GPU of \w+, cuda:\d; got cuda:\d") as refused:
            run(operation, *apart, *others)
        assert name in str(refused.value)


def test_what_the_gradient_of_windows_takes_lies_on_one_gpu(run: Run) -> None:
    first, tensors, others = small_calls()["window_attention"]
    out, stats = run("window_attention", *tensors.values(), *others)
    for name, given in (("grad_out", [(out, 1), out, stats]), ("out", [out, (out, 1), stats]),
                        ("stats", [out, out, (stats, 1)])):  # fmt: skip
        with pytest.raises(RuntimeError, match=f"{name} must be on the GPU of {first}, cuda:0; got cuda:1"):
            run("window_attention_backward", given[0], *tensors.values(), *others, *given[1:])


def test_weights_of_rows_lie_on_one_gpu(run: Run) -> None:
    _, tensors, _ = small_calls()["moe_combine"]
    with pytest.raises(RuntimeError, match="weights must be on the GPU of rows, cuda:0; got cuda:1"):
        run("moe_combine", *tensors.values(), True, (torch.ones(2, 2), 1))
