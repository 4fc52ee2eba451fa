"""Boxes in a call's arguments where several forms may hold one.

Proves: those of a value are converted by the form that it has, whatever the order of the forms; what should be a box in
it, and is none, comes to who converts it, which refuses it; what is no list and no object stays as it is.
"""

from typing import Any, Literal

import pytest

from foveate.agent.boxes import with_boxes
from foveate.errors import ToolArgumentError
from foveate.tools.schema import is_number, schema_of
from foveate.tools.tool import Box

BOX, HALF = [0, 0, 500, 400], [0.0, 0.0, 250.0, 200.0]


def halved(box: Any) -> list[float]:
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and max(box) <= 1000):
        raise ToolArgumentError(f"box is {box}; give four numbers")
    return [side / 2 for side in box]


@pytest.mark.parametrize(
    ("hint", "value", "wanted"),
    [
        (Box | list[Box], BOX, HALF),
        (Box | list[Box], [BOX] * 2, [HALF] * 2),
        (Box | list[Box], [BOX] * 4, [HALF] * 4),
        (list[Box] | Box, BOX, HALF),
        (list[Box] | Box, [BOX], [HALF]),
        (dict[str, Box] | list[Box], [BOX], [HALF]),
        (dict[str, Box] | list[Box], {"a": BOX}, {"a": HALF}),
        (list[Box] | dict[str, Box], [BOX], [HALF]),
        (list[Box] | dict[str, Box], {"a": BOX}, {"a": HALF}),
        (Box | None, BOX, HALF),
        (Box | None, None, None),
        (list[Box] | Literal["all"], "all", "all"),
        (list[list[Box]] | list[Box], [BOX], [HALF]),
        (list[list[Box]] | list[Box], [[BOX]], [[HALF]]),
        (Box | list[str], ["dog", "cat"], ["dog", "cat"]),
        (Box | list[str], BOX, HALF),
        (Box | dict[str, str], {"a": "dog"}, {"a": "dog"}),
        (list[str] | list[Box], [BOX], [HALF]),
        (list[Box] | list[int], [1, 2, 3, 4], [1, 2, 3, 4]),
    ],
)
def test_boxes_are_converted_by_the_form_that_a_value_has(hint: Any, value: Any, wanted: Any) -> None:
    assert with_boxes(value, schema_of(hint), halved) == wanted


@pytest.mark.parametrize(
    ("hint", "value", "told"),
    [
        (Box | list[Box], [0, 0, 500], "box is 0"),
        (list[Box] | Box, [BOX, [0, 0]], r"box is \[0, 0\]"),
        (dict[str, Box] | list[Box], [BOX, 5], "box is 5"),
        (list[Box] | dict[str, Box], {"a": BOX, "b": [0]}, r"box is \[0\]"),
        (Box | list[float], [0, 0, 9000, 400], r"box is \[0, 0, 9000, 400\]"),
        (Box | None, [0, 0, 500], r"box is \[0, 0, 500\]"),
        (Box | None, {"a": BOX}, "box is {'a': "),
    ],
)
def test_what_should_be_a_box_and_is_none_is_refused(hint: Any, value: Any, told: str) -> None:
    with pytest.raises(ToolArgumentError, match=told):
        with_boxes(value, schema_of(hint), halved)
