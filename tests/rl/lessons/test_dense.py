"""What the dense loss weighs."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.rl.lessons.dense import EMPTY_KEPT, _labelled

ROWS = 2 * EMPTY_KEPT


def loss_of(says: dict[int, int], labels: dict[int, int], exact: tuple[int, ...] = ()) -> float:
    """Of rows with one place and two classes, where the head is rather sure of class 1 at some and of 0 elsewhere."""
    x_MD = torch.tensor([[0.0, 3.0] if says.get(row) else [3.0, 0.0] for row in range(ROWS)])
    labels_M1 = torch.tensor([[labels.get(row, 0)] for row in range(ROWS)])
    exact_M = torch.zeros(ROWS, dtype=torch.bool).index_fill(0, torch.tensor(exact, dtype=torch.long), True)
    return float(_labelled(nn.Identity(), x_MD, labels_M1, 0.25, exact_M)[0])


def nll(x: Tensor, label: int) -> float:
    return float(F.cross_entropy(x[None], torch.tensor([label])))


RIGHT, WRONG = nll(torch.tensor([3.0, 0.0]), 0), nll(torch.tensor([3.0, 0.0]), 1)


def test_of_empty_rows_one_in_four_is_asked_and_weighs_less() -> None:
    assert loss_of({1: 1}, {1: 1}) == pytest.approx((RIGHT + 2 * 0.25 * RIGHT) / 1.5)
    assert loss_of({1: 1, 5: 1}, {1: 1}) == pytest.approx(RIGHT)  # row 5 is not asked
    assert loss_of({1: 1, 4: 1}, {1: 1}) == pytest.approx((RIGHT + 0.25 * RIGHT + 0.25 * WRONG) / 1.5)


def test_an_exact_row_is_asked_and_weighs_as_much_as_one_that_carries_something() -> None:
    assert loss_of({1: 1, 5: 1}, {1: 1}, (5,)) == pytest.approx((RIGHT + WRONG + 2 * 0.25 * RIGHT) / 2.5)
    assert loss_of({1: 1, 4: 1}, {1: 1}, (4,)) == pytest.approx((RIGHT + WRONG + 0.25 * RIGHT) / 2.25)
