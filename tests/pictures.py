"""Pictures that tests share."""

from typing import Any

import numpy as np
from PIL import Image


def noise(width_px: int, height_px: int, seed: int = 0) -> Image.Image:
    """A picture of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height_px, width_px, 3), dtype=np.uint8))


def image(width_px: int, height_px: int, seed: int) -> dict[str, Any]:
    """A part of a message with a picture of random pixels."""
    return {"type": "image", "image": noise(width_px, height_px, seed)}


def text(words: str) -> dict[str, Any]:
    """A part of a message with text."""
    return {"type": "text", "text": words}
