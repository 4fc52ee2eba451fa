"""A tiny random thinker in f32 and a few pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.models.config import TINY
from foveate.models.thinker import Thinker
from foveate.models.tokenizer import TextCodec, make_tokenizer


def noise(width_px: int, height_px: int, seed: int = 0) -> Image.Image:
    """A picture of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height_px, width_px, 3), dtype=np.uint8))


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
