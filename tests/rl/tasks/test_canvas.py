"""Boxes hold what was drawn: text lies in the returned box, layouts do not touch, rotation moves boxes with pixels."""

import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from foveate.rl.tasks.anchors import MOST, AnchorKind, pick_anchors
from foveate.rl.tasks.augment import add_noise, augment, jpeg, rotation
from foveate.rl.tasks.canvas import SHAPES, Canvas, shape_mask
from foveate.rl.tasks.layout import Layout, arrange
from foveate.rl.tasks.palette import NAMED, distance, shade, visible_names
from foveate.rl.tasks.words import KINDS, UNKIND, code, distinct, made_up


def blank() -> Canvas:
    canvas = Canvas(random.Random(5), "train", (1300, 1000))
    ImageDraw.Draw(canvas.image).rectangle((0, 0, 1300, 1000), fill=(255, 255, 255))
    return canvas


@pytest.mark.parametrize("align", ["lt", "mm", "rm", "ms"])
def test_text_covers_the_returned_box(align: str) -> None:
    canvas = blank()
    box = canvas.text((400, 300), "Kg7-pQ", size=40, fill=(0, 0, 0), align=align)
    dark = np.asarray(canvas.image.convert("L")) < 128
    rows, columns = np.where(dark)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert found == pytest.approx(box, abs=5)  # Pillow counts the side bearings in
    assert box[0] <= found[0] + 1
    assert box[1] <= found[1] + 1
    assert box[2] >= found[2] - 1
    assert box[3] >= found[3] - 1


def test_pictures_have_accidents() -> None:
    """Light and noise, blur and JPEG, a slight turn: more than half of them, each its own."""
    rng = random.Random(1)
    clean = Image.fromarray(np.random.default_rng(0).integers(60, 200, (40, 60, 3), np.uint8))
    seen = [augment(clean, rng, (255, 255, 255))[0].tobytes() for _ in range(300)]
    assert 0.47 < sum(pixels != clean.tobytes() for pixels in seen) / 300 < 0.67
    for accident in (add_noise, jpeg):
        spoiled = [np.asarray(accident(clean, random.Random(seed))).astype(int) for seed in (1, 2)]
        assert all(0 < np.abs(pixels - np.asarray(clean)).mean() < 40 for pixels in spoiled)
        assert (spoiled[0] != spoiled[1]).any()


def test_every_shape_has_a_mask_of_its_own() -> None:
    masks = {shape_mask(name).tobytes() for name in SHAPES}
    assert len(masks) == len(SHAPES)


@pytest.mark.parametrize("layout", ["grid", "scatter", "rows", "ring", "honeycomb"])
def test_blocks_stay_in_their_area_and_do_not_touch(layout: Layout) -> None:
    rng = random.Random(3)
    for count in (3, 8, 17):
        boxes = arrange(rng, layout, (50, 40, 1500, 1100), (150, 120), count)
        assert 1 <= len(boxes) <= count
        for index, a in enumerate(boxes):
            assert a[0] >= 49
            assert a[1] >= 39
            assert a[2] <= 1501
            assert a[3] <= 1101
            for b in boxes[:index]:
                assert a[0] >= b[2] - 1 or b[0] >= a[2] - 1 or a[1] >= b[3] - 1 or b[1] >= a[3] - 1


def test_boxes_turn_with_the_picture() -> None:
    image = Image.new("L", (800, 600), 0)
    ImageDraw.Draw(image).rectangle((600, 400, 639, 419), fill=255)
    turned = np.asarray(image.rotate(2.0, Image.Resampling.BILINEAR)) > 128
    rows, columns = np.where(turned)
    box = rotation(2.0, (800, 600))((600, 400, 640, 420))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx(box, abs=2)


@pytest.mark.parametrize("kind", ["shape", "icon", "letter", "number"])
def test_anchors_of_a_picture_have_different_names(kind: AnchorKind) -> None:
    for seed in range(20):
        canvas = Canvas(random.Random(seed), "train", (1200, 900))
        anchors = pick_anchors(canvas, kind, min(30, MOST[kind]), canvas.theme.page)
        assert len({anchor.name for anchor in anchors}) == len(anchors)
        for anchor in anchors:
            if kind == "shape":
                assert distance(anchor.color, canvas.theme.page) > 90


def test_shades_keep_their_names() -> None:
    rng = random.Random(0)
    for name in NAMED:
        color = shade(rng, name)
        assert min(NAMED, key=lambda other: distance(NAMED[other], color)) == name
    assert "white" not in visible_names((255, 255, 255))


def test_values_are_distinct_and_clean() -> None:
    rng = random.Random(0)
    for kind in KINDS.values():
        assert len(set(distinct(rng, kind.make, 15))) == 15
    texts = [make(rng).lower() for make in (made_up, code) for _ in range(2000)]
    assert not any(part in text for text in texts for part in UNKIND)
    with pytest.raises(ValueError, match="gave 1 different strings, wanted 2"):
        distinct(rng, lambda _: "same", 2)
