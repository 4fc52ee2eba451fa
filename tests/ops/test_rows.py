"""Taking rows and putting rows are each other's gradient and inverse."""

import torch

from foveate.ops.rows import put_rows, take_rows


def test_taking_and_putting_rows_are_each_others_gradient() -> None:
    index = torch.tensor([4, 0, 7, 2])
    x = torch.randn(9, 3, dtype=torch.double, requires_grad=True)
    y = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: take_rows(z, index), (x,))
    assert torch.autograd.gradcheck(lambda z: put_rows(z, index, 9), (y,))
    assert torch.equal(take_rows(put_rows(y, index, 9), index), y)
