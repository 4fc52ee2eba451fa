"""Every example comes once before one comes twice, each round in another order, however large a batch is."""

import pytest

from foveate.rl.rounds import batch_at


@pytest.mark.parametrize("size", [1, 3, 7, 16])
def test_all_come_once_before_one_comes_twice(size: int) -> None:
    met = [idx for index in range(42) for idx in batch_at(index, size, 7, seed=1)]
    rounds = [tuple(met[start : start + 7]) for start in range(0, 42, 7)]
    assert all(sorted(one) == list(range(7)) for one in rounds)
    assert len(set(rounds)) == 6
    assert met[:42] == [batch_at(index, 1, 7, seed=1)[0] for index in range(42)]


def test_another_seed_has_another_order() -> None:
    assert batch_at(0, 7, 7, seed=1) != batch_at(0, 7, 7, seed=2)
