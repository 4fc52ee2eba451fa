"""Marks number and place every crop; the PNG has the mark's colour around the box and the picture inside it."""

from PIL import Image, ImageColor

from foveate.agent.marks import COLOURS, FAINT_COLOUR, Mark, draw_boxes, mark_of, marks_of, plate_corners
from foveate.agent.records import Answer, Box, ImageRecord, Step, Usage


def record(sha256: str, box_px: Box, original: str = "p") -> ImageRecord:
    return ImageRecord(sha256=sha256, width_px=100, height_px=100, original=original, box_px=box_px)


def zoomed(sha256: str, box_px: Box) -> Step:
    return Step(kind="tool", tool="zoom", text="", box_px=box_px, image=sha256)


def test_a_crop_of_this_question_has_a_colour_and_an_earlier_one_is_faint() -> None:
    old, new = (0.0, 0.0, 10.0, 10.0), (5.0, 5.0, 9.0, 9.0)
    images = (record("p", (0.0, 0.0, 100.0, 100.0)), record("a", old), record("b", new))
    answer = Answer(text="", status="answered", steps=(zoomed("b", new),), usage=Usage(), images=images)
    marks = marks_of(answer)
    assert [(mark.number, mark.faint, mark.colour) for mark in marks] == [
        (1, True, FAINT_COLOUR),
        (2, False, COLOURS[0]),
    ]
    assert mark_of(answer.steps[0], answer, marks) == marks[1]
    assert mark_of(Step(kind="think", text="hm"), answer, marks) is None


def test_colours_start_again_after_the_last() -> None:
    boxes = [(float(i), 0.0, float(i + 1), 1.0) for i in range(len(COLOURS) + 1)]
    images = tuple(record(f"c{i}", box) for i, box in enumerate(boxes))
    steps = tuple(zoomed(f"c{i}", box) for i, box in enumerate(boxes))
    marks = marks_of(Answer(text="", status="answered", steps=steps, usage=Usage(), images=images))
    assert marks[-1].colour == COLOURS[0]


def test_draw_boxes_frames_the_box_and_leaves_its_inside() -> None:
    picture = Image.new("RGB", (3200, 800), "#204060")
    mark = Mark(number=3, original="p", box_px=(1000.0, 200.0, 1400.0, 600.0), colour=COLOURS[0])
    drawn = draw_boxes(picture, [mark], limit_px=1600)
    assert drawn.size == (1600, 400)
    frame = ImageColor.getrgb(COLOURS[0])
    assert frame in {drawn.getpixel((x, 200)) for x in range(494, 501)}
    assert drawn.getpixel((600, 200)) == (0x20, 0x40, 0x60)
    assert picture.getpixel((1000, 200)) == (0x20, 0x40, 0x60)


def test_a_box_at_the_very_corner_is_drawn() -> None:
    mark = Mark(number=12, original="p", box_px=(0.0, 0.0, 0.4, 0.4), colour=COLOURS[1])
    assert draw_boxes(Image.new("RGB", (40, 30)), [mark]).size == (40, 30)


def test_plates_of_boxes_with_one_corner_do_not_hide_each_other() -> None:
    boxes: list[Box] = [(0.0, 0.0, 90.0, 90.0), (0.0, 0.0, 40.0, 40.0), (50.0, 0.0, 60.0, 9.0)]
    marks = [Mark(number=n, original="p", box_px=box, colour=COLOURS[n]) for n, box in enumerate(boxes)]
    first, second, third = plate_corners(marks, 18.0)
    assert first == (0.0, 0.0)
    assert second == (0.0, 20.0)
    assert third[0] < 50.0
    assert third[1] == 0.0
