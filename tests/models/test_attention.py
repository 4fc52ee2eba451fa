"""Packed attention equals attention of each sequence alone, forward and gradient."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from foveate.models.attention import Packing, packed_attention, put_rows, take_rows


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[64, 64, 16, 4], [3], [5, 5, 5, 70, 1, 1], [0, 4, 0, 4]])
def test_equals_each_sequence_alone(lengths: list[int], causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(sum(lengths), heads, 16, requires_grad=True) for heads in (4, 2, 2))
    out = packed_attention(q, k, v, Packing(lengths), causal=causal)
    wanted = torch.cat(
        [
            scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in part), is_causal=causal, enable_gqa=True)[
                0
            ].transpose(0, 1)
            for part in zip(*(x.split([n for n in lengths if n]) for x in (q, k, v)), strict=True)
        ]
    )
    torch.testing.assert_close(out, wanted)
    weight = torch.randn_like(out)
    grads = torch.autograd.grad((out * weight).sum(), (q, k, v))
    for got, expected in zip(grads, torch.autograd.grad((wanted * weight).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(got, expected)


def test_short_windows_equal_the_fused_form() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(128, 3, 64) for _ in range(3))
    parts = [x.view(2, 64, 3, 64).transpose(1, 2) for x in (q, k, v)]
    wanted = scaled_dot_product_attention(*parts).transpose(1, 2).reshape(128, 3, 64)
    torch.testing.assert_close(packed_attention(q, k, v, Packing([64, 64])), wanted)


def test_no_tokens_give_no_tokens() -> None:
    empty = torch.zeros(0, 2, 8)
    assert packed_attention(empty, empty, empty, Packing([])).shape == (0, 2, 8)


def test_taking_and_putting_rows_are_each_others_gradient() -> None:
    index = torch.tensor([4, 0, 7, 2])
    x = torch.randn(9, 3, dtype=torch.double, requires_grad=True)
    y = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: take_rows(z, index), (x,))
    assert torch.autograd.gradcheck(lambda z: put_rows(z, index, 9), (y,))
    assert torch.equal(take_rows(put_rows(y, index, 9), index), y)
