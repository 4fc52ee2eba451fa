"""One typed function per native operation.

The kernels live in csrc/ and are registered as `torch.ops.foveate.*`. Here each gets its fake kernel (shapes only, for
torch.compile and opcheck), its gradient, and one function that the models call. The native kernels serve CPU tensors,
and those of a GPU where `_cuda.so` was built; without them, or in a dtype that a kernel does not take, plain PyTorch
runs. `backend()` and `cuda_backend()` say which it is.
"""

from foveate.ops.activation import silu_mul
from foveate.ops.attention import Packing, packed_attention, prefix_attention, window_attention
from foveate.ops.decode import decode_attention
from foveate.ops.experts import experts_forward
from foveate.ops.int8 import Int8Rows
from foveate.ops.linear import linear, linear_f32
from foveate.ops.moe import combine, dispatch
from foveate.ops.native import (
    SERVED,
    backend,
    compute_dtype,
    cuda_backend,
    is_native,
    is_served,
    plain_pytorch,
    wants_gradient,
)
from foveate.ops.nf4 import Nf4Rows
from foveate.ops.norm import rms_norm
from foveate.ops.picture import patchify, resize
from foveate.ops.rope import Tables, rotate
from foveate.ops.rounded import Rounded
from foveate.ops.route import route
from foveate.ops.rows import put_rows, take_rows

__all__ = [
    "SERVED",
    "Int8Rows",
    "Nf4Rows",
    "Packing",
    "Rounded",
    "Tables",
    "backend",
    "combine",
    "compute_dtype",
    "cuda_backend",
    "decode_attention",
    "dispatch",
    "experts_forward",
    "is_native",
    "is_served",
    "linear",
    "linear_f32",
    "packed_attention",
    "patchify",
    "plain_pytorch",
    "prefix_attention",
    "put_rows",
    "resize",
    "rms_norm",
    "rotate",
    "route",
    "silu_mul",
    "take_rows",
    "wants_gradient",
    "window_attention",
]
