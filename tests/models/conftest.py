"""What tests of published checkpoints share: the folder of each Qwen-VL family that transformers saved."""

from pathlib import Path

import pytest
import qwen
from torch import nn


@pytest.fixture(scope="session", params=qwen.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """A model_type."""
    return str(request.param)


@pytest.fixture(scope="session")
def saved(family: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The model of transformers, and the folder with its weights."""
    folder = tmp_path_factory.mktemp(family)
    return qwen.save(family, folder), folder
