"""What memory bounds beside a copy that reads and writes as many bytes, and beside plain PyTorch; the aim is the copy.

Results, and the copy, are put into new memory each time, as models do it.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from foveate.benchmarks.measure import SETS, Case, Run, plainly
from foveate.ops import patchify, rms_norm, rotate, silu_mul

TOKENS, WIDTH, HEAD_DIM = 4096, 2048, 128
SIDE_PX, PATCH, MERGE, DEPTH = 1036, 14, 2, 2
HALF = (0.5, 0.5, 0.5)


def cases() -> Iterator[Case]:
    """Tokens in bf16, and a picture."""
    sets = [torch.randn(TOKENS, WIDTH).bfloat16() for _ in range(SETS)]
    weight, angles_TF, size = torch.ones(WIDTH).bfloat16(), torch.randn(TOKENS, HEAD_DIM // 2), sets[0].nbytes
    tables, tokens = (angles_TF.cos(), angles_TF.sin()), f"{TOKENS} tokens of {WIDTH}"
    heads = [x_TD.unflatten(1, (-1, HEAD_DIM)) for x_TD in sets]
    yield _case("rms_norm", tokens, "bfloat16", lambda n: rms_norm(sets[n], weight, 1e-6), 2 * size)
    yield _case("rotate", f"{tokens}, heads of {HEAD_DIM}", "bfloat16", lambda n: rotate(heads[n], tables), 2 * size)
    gates = [x_TD.chunk(2, dim=1) for x_TD in sets]
    yield _case(
        "silu_mul", tokens, "bfloat16", lambda n: silu_mul(sets[n]), 3 * size // 2,
        torchs=lambda n: F.silu(gates[n][0]) * gates[n][1],
    )  # fmt: skip
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (1, SIDE_PX, SIDE_PX, 3), dtype=np.uint8) for _ in range(SETS)]
    yield _case(
        "patchify", f"{SIDE_PX} x {SIDE_PX} px", "uint8",
        lambda n: patchify(pictures[n], HALF, HALF, patch=PATCH, merge=MERGE, depth=DEPTH),
        (1 + 4 * DEPTH) * pictures[0].nbytes,
    )  # fmt: skip


def _case(op: str, shape: str, dtype: str, ours: Run, moved: int, *, torchs: Run | None = None) -> Case:
    """`torchs` is how others write it, where our own fallback widens more than they do."""
    sources = torch.ones(SETS, moved // 2, dtype=torch.uint8)
    peers = {"copy": lambda number: sources[number].clone(), "torch": torchs or plainly(ours)}
    return Case(op=op, shape=shape, dtype=dtype, ours=ours, peers=peers, moved=moved)
