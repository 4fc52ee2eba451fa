"""Marks number and colour every crop, find the crop of a step, and their plates lie apart and inside the picture."""

from foveate.agent.marks import COLOURS, FAINT_COLOUR, Mark, marks_of, marks_of_steps, plate_corners
from foveate.agent.records import Answer, Box, ImageRecord, Step, Usage


def record(sha256: str, box_px: Box, original: str = "p") -> ImageRecord:
    return ImageRecord(sha256=sha256, width_px=100, height_px=100, original=original, box_px=box_px)


def zoomed(sha256: str, box_px: Box) -> Step:
    return Step(kind="tool", tool="zoom", text="", box_px=box_px, image=sha256)


def test_a_crop_of_this_question_has_a_colour_and_an_earlier_one_is_faint() -> None:
    old, new = (0.0, 0.0, 10.0, 10.0), (5.0, 5.0, 9.0, 9.0)
    images = (record("p", (0.0, 0.0, 100.0, 100.0)), record("a", old), record("b", new))
    steps = (Step(kind="think", text="hm"), zoomed("b", new))
    answer = Answer(text="", status="answered", steps=steps, usage=Usage(), images=images)
    marks = marks_of(answer)
    assert [(mark.number, mark.faint, mark.colour) for mark in marks] == [
        (1, True, FAINT_COLOUR),
        (2, False, COLOURS[0]),
    ]
    assert marks_of_steps(answer, marks) == [None, marks[1]]


def test_crops_of_one_place_go_to_their_steps_in_order() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    images = (record("p", (0.0, 0.0, 100.0, 100.0)), *[record("a", box)] * 3)
    answer = Answer(text="", status="answered", steps=(zoomed("a", box),) * 2, usage=Usage(), images=images)
    marks = marks_of(answer)
    assert [(mark.number, mark.faint) for mark in marks] == [(1, True), (2, False), (3, False)]
    assert [mark and mark.number for mark in marks_of_steps(answer, marks)] == [2, 3]


def test_colours_start_again_after_the_last() -> None:
    boxes = [(float(i), 0.0, float(i + 1), 1.0) for i in range(len(COLOURS) + 1)]
    images = tuple(record(f"c{i}", box) for i, box in enumerate(boxes))
    steps = tuple(zoomed(f"c{i}", box) for i, box in enumerate(boxes))
    marks = marks_of(Answer(text="", status="answered", steps=steps, usage=Usage(), images=images))
    assert marks[-1].colour == COLOURS[0]


def test_plates_of_boxes_with_one_corner_do_not_hide_each_other() -> None:
    boxes: list[Box] = [(0.0, 0.0, 90.0, 90.0), (0.0, 0.0, 40.0, 40.0), (50.0, 0.0, 60.0, 9.0)]
    marks = [Mark(number=n, original="p", box_px=box, colour=COLOURS[n]) for n, box in enumerate(boxes)]
    first, second, third = plate_corners(marks, 18.0, (100, 100))
    assert first == (0.0, 0.0)
    assert second == (0.0, 20.0)
    assert third[0] < 50.0
    assert third[1] == 0.0


def test_plates_at_the_edge_stay_in_the_picture() -> None:
    boxes: list[Box] = [(40.0, 95.0, 90.0, 100.0), (40.0, 95.0, 60.0, 100.0), (1.0, 97.0, 9.0, 100.0)]
    marks = [Mark(number=n, original="p", box_px=box, colour=COLOURS[n]) for n, box in enumerate(boxes)]
    corners = plate_corners(marks, 18.0, (100, 100))
    assert all(x >= 0 and 0 <= y <= 100 - 18 for x, y in corners)
    assert abs(corners[0][1] - corners[1][1]) >= 18
