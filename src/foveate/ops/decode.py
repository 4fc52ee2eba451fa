"""Attention of one new token of each conversation over the keys and values that a cache holds.

Shape letters: B conversations, H query heads, G key heads, D and E width of keys and values, S slots, C their capacity.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from foveate.ops.native import CUDA_ALIGNMENT, CUDA_MULTIPLE, are_evened, is_native, is_served, wants_gradient

CUDA_HEADS = frozenset({64, 128, 256})
"""Sizes of heads that the kernel for GPUs takes ..."""
CUDA_LATENT = (576, 512)
"""... and of latents whose first numbers are the values: DeepSeek-V2's."""
CUDA_MOST = 65_535
"""Conversations of a call: each is a layer of the grid."""


def decode_attention(
    q_BHD: Tensor,
    k_SCGD: Tensor,
    v_SCGE: Tensor,
    slots_B: Tensor,
    lengths_B: Tensor,
    longest: int,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention [B, H, E] of token b over the first lengths[b] places of slot slots[b]; no gradient.

    Multi-head latent attention with absorbed projections is the case of one key head whose values are the first E
    numbers of the keys: `v = k[..., :E]` is read once for both.

    Args:
        q_BHD: bf16 or f32 for the native kernel.
        k_SCGD: of q's dtype, the last dimension dense; G divides H, and neighbouring query heads share a key head.
        v_SCGE: as k; its last dimension may differ.
        slots_B: int64, on the device of q.
        lengths_B: int64, at least 1, the new token included.
        longest: of `lengths_B`, known to the caller without waiting for a device.
        scale: of the products of queries and keys; None for D^-0.5.
    """
    scale = q_BHD.shape[-1] ** -0.5 if scale is None else scale
    on_gpu = q_BHD.is_cuda and len(q_BHD) <= CUDA_MOST and _has_cuda_kernel(k_SCGD, v_SCGE)
    is_ours = is_served(q_BHD, cuda=on_gpu) and not are_evened(q_BHD, k_SCGD, v_SCGE)
    if is_ours and not wants_gradient(q_BHD, k_SCGD, v_SCGE):
        out_BHE: Tensor = torch.ops.foveate.decode_attention(q_BHD, k_SCGD, v_SCGE, slots_B, lengths_B, scale)
        return out_BHE
    k_BGCD, v_BGCE = (x[slots_B, :longest].transpose(1, 2) for x in (k_SCGD, v_SCGE))
    mask_B11C = None  # one token sees all that is left
    if len(slots_B) > 1:
        mask_B11C = (torch.arange(longest, device=q_BHD.device) < lengths_B[:, None])[:, None, None]
    out_BH1E = scaled_dot_product_attention(
        q_BHD[:, :, None], k_BGCD, v_BGCE, attn_mask=mask_B11C, scale=scale, enable_gqa=True
    )
    return out_BH1E[:, :, 0]


def _has_cuda_kernel(k: Tensor, v: Tensor) -> bool:
    """Whether the kernel for GPUs takes such a cache: equal sizes of keys and values, or latents.

    torch.compile knows no addresses while it traces: there a cache whose sizes and strides fit is taken, and the kernel
    refuses one that does not begin where it must.
    """
    width, value_width = k.shape[-1], v.shape[-1]
    latents = (width, value_width) == CUDA_LATENT
    fits = k.stride() == v.stride() if latents else width == value_width and width in CUDA_HEADS
    strided = all(stride % CUDA_MULTIPLE == 0 for x in (k, v) for stride in x.stride()[:3])
    if not (fits and strided) or torch.compiler.is_compiling():
        return fits and strided
    aligned = all(x.data_ptr() % CUDA_ALIGNMENT == 0 for x in (k, v))
    return aligned and (not latents or k.data_ptr() == v.data_ptr())


def _fake(q: Tensor, k: Tensor, v: Tensor, slots: Tensor, lengths: Tensor, scale: float) -> Tensor:
    return q.new_empty((*q.shape[:2], v.shape[-1]))


if is_native():
    torch.library.register_fake("foveate::decode_attention", _fake)
