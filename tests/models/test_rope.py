"""Positions of a conversation follow Qwen2-VL's rule; rotation depends on differences of positions only."""

from dataclasses import replace

import pytest
import torch

from foveate.errors import ConfigError
from foveate.models.config import NANO
from foveate.models.image import Grid
from foveate.models.rope import Span, mrope_axes, mrope_tables, sequence_positions, vision_tables
from foveate.ops import rotate


def test_text_after_an_image_starts_past_its_largest_position() -> None:
    positions = sequence_positions([2, Span(Grid(t=1, h=4, w=6)), 2], merge_size=2)
    assert positions[:, :2].tolist() == [[0, 1]] * 3
    assert positions[0, 2:8].tolist() == [2] * 6
    assert positions[1, 2:8].tolist() == [2, 2, 2, 3, 3, 3]
    assert positions[2, 2:8].tolist() == [2, 3, 4, 2, 3, 4]
    assert positions[:, 8:].tolist() == [[5, 6]] * 3


def test_scores_depend_on_the_difference_of_positions() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 16), torch.randn(1, 2, 16)

    def score(a: int, b: int) -> torch.Tensor:
        tables = [mrope_tables(torch.full((3, 1), p), (2, 3, 3), 10_000.0) for p in (a, b)]
        return (rotate(q, tables[0]) * rotate(k, tables[1])).sum(-1)

    torch.testing.assert_close(score(3, 8), score(20, 25), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(score(3, 8), score(3, 9), atol=1e-3)


def test_the_slow_pairs_can_be_left_alone() -> None:
    positions_3T = torch.tensor([[0, 7], [0, 7], [0, 9]])
    cos, sin = mrope_tables(positions_3T, (2, 3, 3), 10_000.0, share=0.5)
    whole = mrope_tables(positions_3T, (2, 3, 3), 10_000.0)
    assert torch.all(sin[:, 4:] == 0)
    assert torch.all(cos[:, 4:] == 1)
    torch.testing.assert_close((cos[:, :4], sin[:, :4]), tuple(table[:, :4] for table in whole))


def test_vision_tables_turn_with_row_then_column() -> None:
    cos, sin = vision_tables(torch.tensor([[0, 0], [1, 0], [0, 1]]), 16, 10_000.0)
    assert cos.shape == sin.shape == (3, 8)
    assert torch.all(sin[0] == 0)
    assert torch.all(sin[1, 4:] == 0)
    assert torch.all(sin[1, :4] != 0)
    assert torch.all(sin[2, :4] == 0)
    assert torch.all(sin[2, 4:] != 0)


def test_interleaved_axes_take_turns_and_time_keeps_the_slow_rest() -> None:
    assert mrope_axes((12, 10, 10), interleaved=True).tolist() == [0, 1, 2] * 10 + [0, 0]
    assert mrope_axes((2, 3, 3), interleaved=False).tolist() == [0, 0, 1, 1, 1, 2, 2, 2]


def test_neighbouring_columns_differ_when_interleaved_and_hardly_in_bands() -> None:
    positions_3T = torch.tensor([[5, 5], [5, 5], [5, 6]])

    def likeness(section: tuple[int, int, int], interleaved: bool) -> float:
        cos, sin = mrope_tables(positions_3T, section, 10_000.0, interleaved=interleaved)
        return float((cos[0] * cos[1] + sin[0] * sin[1]).mean())

    assert likeness((8, 12, 12), False) > 0.9999
    assert likeness((12, 10, 10), True) < 0.995


def test_a_section_that_cannot_take_turns_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mrope_section \(8, 12, 12\) cannot be interleaved"):
        replace(NANO.decoder, mrope_section=(8, 12, 12))
