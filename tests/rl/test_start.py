"""A stage starts from a whole tower of its preset; anything else is refused in one line that names the file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveate.errors import ConfigError
from foveate.rl.start import load_part, read_tensors


def test_a_part_takes_what_the_file_has_under_its_name(tmp_path: Path) -> None:
    path, part = tmp_path / "tower.safetensors", nn.Linear(2, 3)
    own = {"vision.weight": torch.ones(3, 2).bfloat16(), "vision.bias": torch.ones(3)}
    save_file(own | {"other": torch.ones(1)}, path)
    load_part(part, read_tensors(path), "vision.", path)
    assert torch.equal(part.weight, torch.ones(3, 2))
    assert torch.equal(part.bias, torch.ones(3))


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({"other.weight": (3, 2)}, "lacks vision.weight, vision.bias"),
        ({"vision.weight": (3, 2)}, "lacks vision.bias"),
        ({"vision.weight": (2, 2), "vision.bias": (3,)}, "has in another shape vision.weight"),
        ({"vision.weight": (3, 2), "vision.bias": (3,), "vision.x": (1,)}, "has beyond what is wanted vision.x"),
    ],
)
def test_what_is_not_this_part_is_refused_and_changes_nothing(
    tensors: dict[str, tuple[int, ...]], fault: str, tmp_path: Path
) -> None:
    part = nn.Linear(2, 3)
    before = part.weight.clone()
    with pytest.raises(ConfigError, match=f"^stage.start: {tmp_path}/a {fault}; wanted"):
        load_part(part, {name: torch.ones(shape) for name, shape in tensors.items()}, "vision.", tmp_path / "a")
    assert torch.equal(part.weight, before)


def test_many_tensors_are_counted_and_a_few_named() -> None:
    part = nn.Sequential(*(nn.Linear(1, 1) for _ in range(3)))
    with pytest.raises(ConfigError, match=r"lacks 0\.weight, 0\.bias, 1\.weight and 3 more; wanted"):
        load_part(part, {}, "", Path("a"))


def test_a_file_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no tensors")
    with pytest.raises(ConfigError, match=f"^stage.start: {tmp_path}/a cannot be read .*; wanted a tower.safetensors"):
        read_tensors(tmp_path / "a")
