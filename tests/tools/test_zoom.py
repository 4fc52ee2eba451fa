"""zoom cuts exactly the pixels of the box, and tells the valid range for every box that is none."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from foveate.errors import ToolArgumentError
from foveate.tools import ToolCall, check_box, perform, zoom, zoom_tool

PICTURE = Image.merge("RGB", [Image.linear_gradient("L").resize((40, 30)) for _ in range(3)])
HOSTILE = [
    [0, 0, 10],
    [0, 0, 10, 10, 10],
    [],
    None,
    "0,0,10,10",
    {"x0": 0},
    [0, 0, "10", 10],
    [0, 0, True, 10],
    [0, 0, float("nan"), 10],
    [float("-inf"), 0, 10, 10],
    [-5, 0, 10, 10],
    [0, 0, 1e9, 10],
    [0, 0, 10**400, 10],
    [20, 0, 10, 10],
    [10, 10, 10, 20],
    [41.5, 0, 50, 10],
]


def test_the_crop_is_the_box() -> None:
    crop = zoom(PICTURE, [3, 5, 20, 25])
    assert crop.size == (17, 20)
    assert crop.getpixel((0, 0)) == PICTURE.getpixel((3, 5))
    assert crop.getpixel((16, 19)) == PICTURE.getpixel((19, 24))


def test_fractions_take_every_pixel_they_touch() -> None:
    assert zoom(PICTURE, (2.4, 3.9, 9.1, 10.0)).size == (8, 7)
    assert zoom(PICTURE, (2.0000000001, 3, 9.0000000001, 10)).size == (7, 7)


def test_a_rounding_over_the_border_is_clamped() -> None:
    assert zoom(PICTURE, [-0.7, 0, 40.9, 31]).size == PICTURE.size


@pytest.mark.parametrize("box", HOSTILE, ids=str)
def test_a_box_that_is_none_is_refused_with_the_range(box: object) -> None:
    with pytest.raises(ToolArgumentError, match=re.escape("0 <= x0 < x1 <= 40 and 0 <= y0 < y1 <= 30")):
        zoom(PICTURE, box)


@pytest.mark.parametrize("box", [[5, 5, 8, 20], [39, 0, 40.5, 30]])
def test_a_sliver_is_refused(box: list[float]) -> None:
    with pytest.raises(ToolArgumentError, match="at least 4 x 4 pixels"):
        zoom(PICTURE, box)


def test_boxes_of_any_space_are_checked() -> None:
    assert check_box([0, 0, 1000, 500], 1000, 1000) == (0.0, 0.0, 1000.0, 500.0)
    with pytest.raises(ToolArgumentError, match="x1 <= 1000"):
        check_box([0, 0, 1400, 500], 1000, 1000)
    for sliver in ([1000, 0, 1001, 500], [0, -1, 500, 0], [1000.2, 0, 1000.9, 500]):
        with pytest.raises(ToolArgumentError, match="empty or reversed"):
            check_box(sliver, 1000, 1000)


@given(st.lists(st.floats() | st.integers() | st.text() | st.none(), max_size=5))
def test_any_box_is_cut_inside_the_picture_or_refused(box: list[object]) -> None:
    try:
        crop = zoom(PICTURE, box)
    except ToolArgumentError:
        return
    assert 4 <= crop.width <= 40
    assert 4 <= crop.height <= 30


def test_the_tool_says_where_the_crop_comes_from() -> None:
    images = [PICTURE, zoom(PICTURE, [0, 0, 20, 20])]
    call = ToolCall(id="1", name="zoom", arguments={"image": 1, "box": [2, 2, 10, 10]})
    result = perform([zoom_tool()], call, images)
    assert (result.text, result.source_idx, result.box_px, result.failed) == ("image 2", 1, (2, 2, 10, 10), False)
    assert result.image is not None
    assert result.image.size == (8, 8)


def test_an_image_is_asked_for_once() -> None:
    """The images of a run are copies, each made when it is asked for."""
    asked: list[object] = []

    class Images(list[Image.Image]):
        def __getitem__(self, key: object) -> object:
            asked.append(key)
            return super().__getitem__(key)

    call = ToolCall(id="1", name="zoom", arguments={"image": 0, "box": [2, 2, 10, 10]})
    assert perform([zoom_tool()], call, Images([PICTURE])).image is not None
    assert asked == [0]


@pytest.mark.parametrize("image", [-1, 2, "0", None, 0.5])
def test_an_image_that_is_not_there_is_refused(image: object) -> None:
    call = ToolCall(id="1", name="zoom", arguments={"image": image, "box": [0, 0, 10, 10]})
    result = perform([zoom_tool()], call, [PICTURE, PICTURE])
    assert result.failed
    assert "image" in result.text
    assert result.image is None
