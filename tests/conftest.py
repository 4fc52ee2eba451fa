"""What tests share: seeded draws, a tiny random thinker in f32, a quiet transformers, and no hurry for hypothesis."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings
from pictures import noise

from foveate.models.config import TINY
from foveate.models.thinker import Thinker
from foveate.models.tokenizer import TextCodec, make_tokenizer

settings.register_profile("foveate", deadline=None)  # an example on a busy machine takes as long as it takes
settings.load_profile("foveate")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def thinker() -> Thinker:
    """The same weights in every test."""
    torch.manual_seed(0)
    codec = TextCodec(make_tokenizer(["zoom", "Ġthe", "Ġimage", "What"], TINY.decoder.vocab_size))
    return Thinker(TINY, codec).float().eval().requires_grad_(False)


@pytest.fixture
def conversation() -> list[dict[str, object]]:
    """A question about one picture."""
    parts = [{"type": "image", "image": noise(150, 90)}, {"type": "text", "text": "What is in the image?"}]
    return [{"role": "user", "content": parts}]


@pytest.fixture(scope="session")
def quiet() -> Iterator[None]:
    """Tiny random models need no advice of transformers."""
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity(before)
