"""Attention of one new token of each conversation over the keys and values that a cache holds.

Shape letters: B conversations, H query heads, G key heads, D head dimension, S slots, C capacity of a slot.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from foveate.ops.native import is_native, is_served


def decode_attention(
    q_BHD: Tensor, k_SCGD: Tensor, v_SCGD: Tensor, slots_B: Tensor, lengths_B: Tensor, longest: int
) -> Tensor:
    """Softmax attention [B, H, D] of token b over the first lengths[b] places of slot slots[b]; no gradient.

    Args:
        q_BHD: bf16 or f32 for the native kernel.
        k_SCGD: of q's dtype, the last dimension dense; G divides H, and neighbouring query heads share a key head.
        v_SCGD: as k_SCGD.
        slots_B: int64, on the device of q.
        lengths_B: int64, at least 1, the new token included.
        longest: of `lengths_B`, known to the caller without waiting for a device.
    """
    if is_served(q_BHD) and not (torch.is_grad_enabled() and q_BHD.requires_grad):
        out_BHD: Tensor = torch.ops.foveate.decode_attention(q_BHD, k_SCGD, v_SCGD, slots_B, lengths_B)
        return out_BHD
    k_BGCD, v_BGCD = (x[slots_B, :longest].transpose(1, 2) for x in (k_SCGD, v_SCGD))
    held_BC = torch.arange(longest, device=q_BHD.device) < lengths_B[:, None]
    out_BH1D = scaled_dot_product_attention(
        q_BHD[:, :, None], k_BGCD, v_BGCD, attn_mask=held_BC[:, None, None], enable_gqa=True
    )
    return out_BH1D[:, :, 0]


def _fake(q: Tensor, k: Tensor, v: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
    return q.new_empty(q.shape)


if is_native():
    torch.library.register_fake("foveate::decode_attention", _fake)
