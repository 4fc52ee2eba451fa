"""Images and their boxes.

Proves: an image's id depends on its pixels, mode and size; a store finds an image again from its folder and refuses a
changed file; a crop of a crop keeps its box in the original to within one pixel; boxes convert both ways.
"""

import io
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveate.agent.images import (
    ImageStore,
    StoredImages,
    box_to_pixels,
    crop_record,
    picture_record,
)
from foveate.errors import ImageError, InputError, ToolArgumentError
from foveate.models.reasoner import BoxSpace
from foveate.tools.zoom import zoom_image


def picture(width: int = 6, height: int = 4) -> Image.Image:
    image = Image.new("RGB", (width, height))
    image.putdata([(x % 256, y % 256, (x // 256) * 16 + y // 256) for y in range(height) for x in range(width)])
    return image


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def test_same_pixels_in_another_shape_have_another_id() -> None:
    store = ImageStore()
    assert store.put(Image.new("RGB", (2, 3))) != store.put(Image.new("RGB", (3, 2)))
    assert store.put(picture()) == store.put(picture())


def test_a_later_change_of_the_callers_image_does_not_reach_the_store() -> None:
    store, image = ImageStore(), picture()
    sha256 = store.put(image)
    image.paste((255, 255, 255), (0, 0, 6, 4))
    assert store.get(sha256).getpixel((1, 0)) == (1, 0, 0)


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".png"), (None, ".png")])
def test_a_new_store_over_the_same_folder_finds_the_image(tmp_path: Path, kind: str | None, suffix: str) -> None:
    data = encoded(picture(), kind) if kind else None
    image = Image.open(io.BytesIO(data)).convert("RGB") if data else picture()
    sha256 = ImageStore(tmp_path / "made").put(image, encoded=data)
    assert [path.name for path in (tmp_path / "made").iterdir()] == [f"{sha256}{suffix}"]
    found = ImageStore(tmp_path / "made").get(sha256)
    assert found.tobytes() == image.tobytes()
    if data and suffix != ".png":
        assert (tmp_path / "made" / f"{sha256}{suffix}").read_bytes() == data


def test_a_file_of_another_picture_is_refused_when_it_is_read(tmp_path: Path) -> None:
    sha256 = ImageStore(tmp_path).put(picture(), encoded=encoded(Image.new("RGB", (6, 4)), "PNG"))
    with pytest.raises(ImageError, match="other pixels"):
        ImageStore(tmp_path).get(sha256)


@pytest.mark.parametrize("data", [b"", b"\x89PNG", encoded(Image.new("RGB", (6, 4)), "PNG")])
def test_a_damaged_file_goes_and_the_same_picture_can_be_stored_again(data: bytes, tmp_path: Path) -> None:
    sha256 = ImageStore(tmp_path).put(picture())
    (tmp_path / f"{sha256}.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"is damaged \(.*\) and was put aside; add the picture again"):
        ImageStore(tmp_path).get(sha256)
    assert ImageStore(tmp_path).put(picture()) == sha256
    assert ImageStore(tmp_path).get(sha256).tobytes() == picture().tobytes()


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    sha256 = ImageStore(tmp_path).put(picture())
    Image.new("RGB", (6, 4)).save(tmp_path / f"{sha256}.png")
    with pytest.raises(ImageError, match="other pixels"):
        ImageStore(tmp_path).get(sha256)


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "", "A" * 64])
def test_an_unknown_id_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="not in the store"):
        ImageStore(tmp_path).get(name)
    assert name not in ImageStore(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write images"):
        ImageStore(tmp_path / "file" / "folder").put(picture())


def test_memory_is_bounded_when_there_is_a_folder(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, memory_bytes=3 * 4 * 4 * 4)
    ids = [store.put(Image.new("RGB", (4, 4), (value, 0, 0))) for value in range(20)]
    assert list(store._images) == ids[-3:]
    store.put(Image.new("RGB", (99, 99)))
    assert [image.size for image in store._images.values()] == [(99, 99)]  # the last one stays, whatever its size
    assert [store.get(sha256).getpixel((0, 0)) for sha256 in ids] == [(value, 0, 0) for value in range(20)]


def test_many_threads_may_share_a_store(tmp_path: Path) -> None:
    store = ImageStore(tmp_path, memory_bytes=2 * 4 * 8 * 8)
    found: list[Any] = []

    def work(value: int) -> None:
        pictures = (Image.new("RGB", (8, 8), (shade, value, 0)) for shade in range(8))
        found.extend(store.get(store.put(picture)).getpixel((0, 0)) for picture in pictures)

    values = [0, 1] * 3
    threads = [threading.Thread(target=work, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted((shade, value, 0) for value in values for shade in range(8))


def test_stored_images_are_fetched_when_asked_for() -> None:
    store = ImageStore()
    images = StoredImages(store, [store.put(picture()), "f" * 64])
    assert len(images) == 2
    assert images[0].size == (6, 4)
    assert len(images[:1]) == 1
    with pytest.raises(ImageError):
        images[1]


sides = st.integers(min_value=40, max_value=3000)
fractions = st.tuples(*[st.floats(0, 1, allow_nan=False)] * 4)


@given(width=sides, height=sides, chain=st.lists(fractions, min_size=1, max_size=4))
def test_a_crop_of_a_crop_keeps_its_place(width: int, height: int, chain: list[tuple[float, ...]]) -> None:
    """The composed box equals the true place of the pixels; the box as asked for is never more than 1 px off."""
    record, (left, top) = picture_record("0" * 64, (width, height)), (0, 0)
    size = (width, height)
    for a, b, c, d in chain:
        asked = (min(a, c) * size[0], min(b, d) * size[1], max(a, c) * size[0], max(b, d) * size[1])
        box = (math.floor(asked[0]), math.floor(asked[1]), math.ceil(asked[2]), math.ceil(asked[3]))
        if box[2] - box[0] < 4 or box[3] - box[1] < 4:
            continue
        left, top, size = left + box[0], top + box[1], (box[2] - box[0], box[3] - box[1])
        wish = crop_record(record, asked, "1" * 64, size).box_px
        record = crop_record(record, box, "1" * 64, size)
        assert record.box_px == pytest.approx((left, top, left + size[0], top + size[1]), abs=1e-6)
        assert all(abs(x - y) <= 1 + 1e-6 for x, y in zip(wish, record.box_px, strict=True))
        assert record.original == "0" * 64


def test_a_crop_of_a_crop_shows_what_its_record_says() -> None:
    original = picture(700, 500)
    record, image = picture_record("0" * 64, original.size), original
    for box in ((100.4, 50.2, 600.9, 450.0), (33.3, 44.4, 200.5, 99.9)):
        result = zoom_image([image], 0, box)
        assert result.image is not None
        assert result.box_px is not None
        image = result.image
        record = crop_record(record, result.box_px, "1" * 64, image.size)
    assert original.crop(record.box_px).tobytes() == image.tobytes()


def test_an_enlarged_crop_composes_by_its_scale() -> None:
    enlarged = crop_record(picture_record("0" * 64, (100, 100)), (10, 20, 30, 40), "1" * 64, (200, 200))
    assert crop_record(enlarged, (0, 100, 100, 200), "2" * 64, (100, 100)).box_px == (10, 30, 20, 40)


@pytest.mark.parametrize(("space", "wanted"), [("relative_1000", "<= 1000"), ("unit", "<= 1"), ("pixels", "<= 640")])
@pytest.mark.parametrize(
    "box",
    [
        [float("nan"), 0, 1, 1],
        [0, 0, float("inf"), 1],
        [-5, 0, 1, 1],
        [0.9, 0, 0.1, 1],
        [0.5, 0.5, 0.5, 0.5],
        [0, 0, 1e9, 1e9],
        ["0", 0, 1, 1],
        [0, 0, 1],
        [True, 0, 1, 1],
        "0,0,1,1",
        None,
        {},
    ],
)
def test_a_bad_box_is_told_the_range_of_the_models_own_space(space: BoxSpace, wanted: str, box: object) -> None:
    with pytest.raises(ToolArgumentError, match=wanted):
        box_to_pixels(box, (640, 480), space)


def test_a_unit_box_may_leave_the_image_by_a_rounding_only() -> None:
    assert box_to_pixels([-0.0005, 0, 1.0005, 1], (640, 480), "unit") == (0, 0, 640, 480)
    with pytest.raises(ToolArgumentError, match="leaves the image"):
        box_to_pixels([0, 0, 1.5, 1], (640, 480), "unit")


def test_a_box_in_pixels_refers_to_the_image_as_it_was_seen() -> None:
    assert box_to_pixels([28, 0, 56, 84], (640, 480), "pixels", (112, 84)) == (160, 0, 320, 480)
    with pytest.raises(ToolArgumentError, match="112"):
        box_to_pixels([28, 0, 300, 84], (640, 480), "pixels", (112, 84))
