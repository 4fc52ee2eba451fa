"""The CUDA kernels beside torch's own on the same GPU; the aim is the floor, bytes or arithmetic.

Everything is captured into a graph and replayed, so that what is compared is the GPU's time and not Python's.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention

from foveate.benchmarks import experts as moe
from foveate.benchmarks import gqa_decode, mla_decode
from foveate.benchmarks.measure import SETS, Case, Run
from foveate.benchmarks.windows import HEAD_DIM, HEADS, SIDE, WIDTH, window_lengths
from foveate.errors import ConfigError
from foveate.ops import Packing, Tables, decode_attention, plain_pytorch, window_attention
from foveate.ops.experts import grouped_experts

TOKENS = SIDE**2
REPEATS = 20
"""Replays that are timed together."""
CACHES = 16
"""Sets of caches: more than a GPU's own memory holds."""


def captured(run: Callable[[int], object], sets: int = SETS) -> Run:
    """A run whose every set of inputs is a graph; REPEATS graphs are replayed in turn."""
    graphs = []
    for number in range(sets):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run(number)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run(number)
        graphs.append(graph)

    def replay(_: int) -> None:
        for number in range(REPEATS):
            graphs[number % sets].replay()

    return replay


def cases() -> Iterator[Case]:
    """bf16: windows forward and backward, full attention, experts at four numbers of tokens, decoding."""
    if not torch.cuda.is_available():
        raise ConfigError("the measurement gpu needs a GPU that torch can use; there is none")
    longer = ("window_core", [256] * (TOKENS // 256) + [TOKENS % 256]), ("window_core", [1024] * 5 + [TOKENS % 1024])
    for name, lengths in (("window_core", window_lengths(SIDE)), *longer, ("full_attention", [TOKENS])):
        yield _windows(name, lengths, gradients=False)
        yield _windows(name, lengths, gradients=True)
    with torch.no_grad():
        yield from _experts()
        yield _decode(gqa_decode.HEADS, gqa_decode.KEY_HEADS, gqa_decode.HEAD_DIM, gqa_decode.HEAD_DIM)
        yield _decode(mla_decode.HEADS, 1, mla_decode.LATENT + mla_decode.ROTATED, mla_decode.LATENT)


def _windows(name: str, lengths: Sequence[int], *, gradients: bool) -> Case:
    packing = Packing(list(lengths))
    angles_TF = torch.randn(TOKENS, HEAD_DIM // 2, device="cuda") * 3
    angles = angles_TF.cos(), angles_TF.sin()
    sets = [torch.randn(TOKENS, 3 * WIDTH, device="cuda").bfloat16().requires_grad_(gradients) for _ in range(SETS)]
    grad_TC = torch.randn(TOKENS, WIDTH, device="cuda").bfloat16()

    def done(attend: Callable[[Tensor, Tables, Packing, int], Tensor], number: int) -> object:
        out_TC = attend(sets[number], angles, packing, HEADS)
        return torch.autograd.grad(out_TC, sets[number], grad_TC) if gradients else out_TC

    numbers = 4 * sum(length**2 for length in lengths) * WIDTH
    return Case(
        op=name,
        shape=f"{TOKENS} patches in {len(lengths)}, {HEADS} heads of {HEAD_DIM}{', with gradients' * gradients}",
        dtype="bfloat16",
        ours=captured(lambda n: done(_ours, n)),
        peers={"torch": captured(lambda n: done(_plain, n))},
        flops=numbers * (3.5 if gradients else 1),
        moved=(4 + 8 * gradients) * WIDTH * TOKENS * 2,
        device="cuda",
        repeats=REPEATS,
    )


def _ours(qkv_TC: Tensor, angles: Tables, packing: Packing, heads: int) -> Tensor:
    """The kernel at any length; the thinker takes flash attention for long ones."""
    out_TC: Tensor = torch.ops.foveate.window_attention(qkv_TC, *angles, packing.ends(qkv_TC.device), heads)[0]
    return out_TC


def _plain(qkv_TC: Tensor, angles: Tables, packing: Packing, heads: int) -> Tensor:
    """Rotary positions in torch, then its flash attention over packed sequences."""
    with plain_pytorch():
        return window_attention(qkv_TC, angles, packing, heads)


def _experts() -> Iterator[Case]:
    gate_up, down = moe.matrices("cuda")
    for tokens in (1, 16, 512, 8192):
        drawn = moe.inputs(tokens)
        sets = [tuple(x.cuda() for x in one) for one in drawn]

        def ours(number: int, sets: list[tuple[Tensor, ...]] = sets) -> object:
            x_TD, experts_TK, weights_TK = sets[number]
            return torch.ops.foveate.moe_experts(x_TD, experts_TK, weights_TK, gate_up, down, None, None)

        def grouped(number: int, sets: list[tuple[Tensor, ...]] = sets) -> object:
            x_TD, experts_TK, weights_TK = sets[number]
            with plain_pytorch():
                return grouped_experts(x_TD, experts_TK, weights_TK, gate_up, down)

        yield Case(
            op="moe_decode" if tokens <= 16 else "moe_prefill",
            shape=f"{tokens} tokens, {moe.TOP_K} of {moe.EXPERTS} experts, {moe.WIDTH} x {moe.INNER}",
            dtype="bfloat16",
            ours=captured(ours),
            peers={"torch grouped_mm": captured(grouped)},
            flops=6 * moe.WIDTH * moe.INNER * moe.TOP_K * tokens,
            moved=moe.read_bytes(drawn),
            device="cuda",
            repeats=REPEATS,
        )


def _decode(heads: int, key_heads: int, width: int, value_width: int) -> Case:
    context = gqa_decode.CONTEXT
    k = torch.randn(CACHES, context, key_heads, width, device="cuda").bfloat16()
    latents = value_width < width
    v = k[..., :value_width] if latents else torch.randn_like(k)
    q = torch.randn(1, heads, width, device="cuda").bfloat16()
    length, slots = torch.tensor([context], device="cuda"), torch.arange(CACHES, device="cuda")[:, None]

    def by_torch(number: int) -> Tensor:
        keys, values = (x[number].transpose(0, 1)[None] for x in (k, v))
        if latents:
            return F.softmax(q[0] @ keys[0, 0].T * width**-0.5, -1) @ values[0, 0]
        return scaled_dot_product_attention(q[:, :, None], keys, values, enable_gqa=True)

    return Case(
        op="mla_decode" if latents else "gqa_decode",
        shape=f"1 token over {context}, {heads}/{key_heads} heads of {width}",
        dtype="bfloat16",
        ours=captured(lambda n: decode_attention(q, k, v, slots[n], length, context), CACHES),
        peers={"torch": captured(by_torch, CACHES)},
        moved=context * key_heads * (width if latents else 2 * width) * 2,
        device="cuda",
        repeats=REPEATS,
    )
