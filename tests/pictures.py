"""Pictures that tests share."""

import numpy as np
from PIL import Image


def noise(width_px: int, height_px: int, seed: int = 0) -> Image.Image:
    """A picture of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height_px, width_px, 3), dtype=np.uint8))
