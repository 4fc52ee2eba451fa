"""What a camera, a scanner or a web page does to a finished picture: rotation, light, noise, blur, JPEG.

Each happens to a fraction of the pictures only, so that most of the time is spent on drawing. Noise comes from one
cached field that is cut at a random place: new random numbers for three million pixels would cost more than the
drawing itself.
"""

import io
import random
from collections.abc import Callable
from functools import lru_cache
from math import cos, radians, sin

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from foveate.rl.tasks.palette import Color
from foveate.rl.tasks.scene import Box

MAX_DEGREES = 2.0
NOISE_SIDE = 2700


@lru_cache(maxsize=3)
def _noise(strength: int) -> Image.Image:
    """Gray noise around 128 as RGB, larger than any picture."""
    values = np.random.default_rng(strength).normal(128.0, strength, (NOISE_SIDE, NOISE_SIDE))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def add_noise(image: Image.Image, rng: random.Random) -> Image.Image:
    """Sensor noise of one of three strengths."""
    field = _noise(rng.choice((3, 6, 9)))
    left, top = rng.randrange(NOISE_SIDE - image.width), rng.randrange(NOISE_SIDE - image.height)
    part = field.crop((left, top, left + image.width, top + image.height))
    return ImageChops.add(image, part, 1.0, -128)


def jpeg(image: Image.Image, rng: random.Random) -> Image.Image:
    """A JPEG round trip of quality 55 to 92."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=rng.randint(55, 92))
    return Image.open(buffer).convert("RGB")


def rotation(degrees: float, size: tuple[int, int]) -> Callable[[Box], Box]:
    """How a box moves when the picture turns counter-clockwise about its centre: the box around its turned corners."""
    angle, (cx, cy) = radians(degrees), (size[0] / 2, size[1] / 2)

    def move(box: Box) -> Box:
        points = [
            (cx + (x - cx) * cos(angle) + (y - cy) * sin(angle), cy - (x - cx) * sin(angle) + (y - cy) * cos(angle))
            for x in (box[0], box[2])
            for y in (box[1], box[3])
        ]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        return max(0.0, min(xs)), max(0.0, min(ys)), min(float(size[0]), max(xs)), min(float(size[1]), max(ys))

    return move


def augment(image: Image.Image, rng: random.Random, fill: Color) -> tuple[Image.Image, Callable[[Box], Box]]:
    """The picture after its accidents, and how boxes move with it."""
    move: Callable[[Box], Box] = lambda box: box  # noqa: E731 - the identity
    if rng.random() < 0.12:
        degrees = rng.uniform(-MAX_DEGREES, MAX_DEGREES)
        move = rotation(degrees, image.size)
        image = image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=fill)
    if rng.random() < 0.15:
        gain = rng.uniform(0.8, 1.12)
        image = image.point([min(255, int(value * gain)) for value in range(256)] * 3)
    if rng.random() < 0.04:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.8)))
    if rng.random() < 0.2:
        image = add_noise(image, rng)
    if rng.random() < 0.25:
        image = jpeg(image, rng)
    return image, move
