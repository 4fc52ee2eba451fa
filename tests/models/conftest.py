"""What tests of published checkpoints share: transformers without advice, and its folder of each Qwen-VL family."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import qwen
import transformers
from torch import nn


@pytest.fixture(scope="session")
def quiet() -> Iterator[None]:
    """Tiny random models need no advice."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)


@pytest.fixture(scope="session", params=qwen.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """A model_type."""
    return str(request.param)


@pytest.fixture(scope="session")
def saved(family: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """The model of transformers, and the folder with its weights."""
    folder = tmp_path_factory.mktemp(family)
    return qwen.save(family, folder), folder
