"""The interval against known values, which crops count as showing the evidence, and what a report says."""

import json
from pathlib import Path
from typing import Any

import pytest

from foveate import __version__
from foveate.agent.budget import Budget
from foveate.agent.records import Answer, ImageRecord, Settings, Usage
from foveate.rl.report import Report, Result, covers, crop_share, wilson_interval
from foveate.rl.suite import SUITE_VERSION, Item
from foveate.tools.tool import Box


def image(sha256: str, box_px: Box, original: str = "p") -> ImageRecord:
    return ImageRecord(sha256=sha256, width_px=10, height_px=10, original=original, box_px=box_px)


PICTURE = image("p", (0, 0, 1000, 500))


def result(text: str, *crops: Box, family: str = "label", evidence: tuple[Box, ...] = ((10, 10, 30, 20),)) -> Result:
    item = Item(id=text, family=family, question="?", answer="7", evidence=evidence, picture="unused")  # type: ignore[arg-type]
    images = (PICTURE, *(image(f"c{idx}", crop) for idx, crop in enumerate(crops)))
    usage = Usage(turns=2, policy_tokens=30, seconds=0.5)
    return Result.of(item, Answer(text=text, status="answered", steps=(), usage=usage, images=images))


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Brown, Cai and DasGupta 2001 and Newcombe 1998 (table 1, method 3) print these, rounded to 4 digits.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (10, 10, 0.7225, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(right: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=5e-5)


def test_nine_tenths_of_the_evidence_must_be_inside() -> None:
    assert covers((0, 0, 50, 50), (10, 10, 30, 20))
    assert covers((12, 0, 50, 50), (10, 10, 30, 20))
    assert not covers((12.1, 0, 50, 50), (10, 10, 30, 20))
    assert not covers((30, 20, 50, 50), (10, 10, 30, 20))


def test_crop_share() -> None:
    box = (10.0, 10.0, 30.0, 20.0)
    small, large = image("a", (0, 0, 100, 50)), image("b", (0, 0, 1000, 250))
    assert crop_share((PICTURE, small), [box]) == pytest.approx(0.01)
    assert crop_share((PICTURE, large, small), [box]) == pytest.approx(0.01)
    assert crop_share((PICTURE, large, small), [box, (500, 10, 600, 20)]) == pytest.approx((0.01 + 0.5) / 2)
    assert crop_share((PICTURE, small), [box, (500, 10, 600, 20)]) is None
    assert crop_share((PICTURE,), [box]) is None
    assert crop_share((PICTURE, image("c", (0, 0, 100, 50), original="c")), [box]) is None
    assert crop_share((PICTURE, small), []) is None
    assert crop_share((), [box]) is None


def test_a_crop_that_shows_no_more_than_the_first_view_shows_no_evidence() -> None:
    box = (10.0, 10.0, 30.0, 20.0)
    whole, most = image("w", PICTURE.box_px), image("m", (0, 0, 1000, 251))
    assert crop_share((PICTURE, whole), [box]) is None
    assert crop_share((PICTURE, whole, most), [box]) is None
    assert crop_share((PICTURE, whole, image("h", (0, 0, 1000, 250))), [box]) == pytest.approx(0.5)
    assert crop_share((PICTURE, image("h", (0, 0, 500, 500))), [(0, 0, 550, 500)]) == pytest.approx(0.5)
    assert crop_share((PICTURE, whole), [PICTURE.box_px]) is None


def test_a_report_sums_up() -> None:
    seen = (0.0, 0.0, 100.0, 50.0)
    results = [result("7", seen), result("7.0"), result("8", seen), result("7", family="fact", evidence=())]
    report = Report.of(results, suite="s", model="m", control=None, seed=3, sandbox=None)
    record = json.loads(json.dumps(report.to_json()))
    assert (record["n"], record["right"], record["accuracy"]) == (4, 3, 0.75)
    assert record["interval_95"] == pytest.approx(wilson_interval(3, 4))
    assert {name: score["right"] for name, score in record["families"].items()} == {"label": 2, "fact": 1}
    assert (record["policy_tokens"], record["turns"], record["seconds"]) == (30, 2, 0.5)
    assert (record["right_with_evidence"], record["evidence_covered"]) == (2, 0.5)
    assert record["crop_share"] == pytest.approx(0.01)
    assert (record["statuses"], record["first_error"]) == ({"answered": 4}, None)
    assert (record["foveate_version"], record["suite_version"], record["settings"]) == (__version__, None, None)
    assert str(report).splitlines() == [
        "s, m, control none, seed 3",
        "",
        "family          n  right  accuracy  95% interval",
        "label           3      2     66.7%  20.8% to 93.9%",
        "fact            1      1    100.0%  20.7% to 100.0%",
        "all             4      3     75.0%  30.1% to 95.4%",
        "",
        "mean of a question: 30.0 tokens, 2.00 turns, 0.50 s",
        "a crop showed the evidence in 1 of 2 right answers (50.0%)",
        "these crops take 1.0% of the picture on average",
        "status: 4 answered",
    ]


def test_a_report_says_what_was_asked_and_how() -> None:
    item = Item(id="a", family="label", question="?", answer="7", kind="number", picture=Path("unused"))
    settings = Settings(model="m", budget=Budget(turns=3), temperature=0.5, seed=3)
    answer = Answer(text="7.0", status="answered", steps=(), usage=Usage(), images=(), settings=settings)
    asked = Result.of(item, answer)
    named: dict[str, Any] = {"model": "m", "control": None, "seed": 3, "sandbox": None, "suite_version": SUITE_VERSION}
    record = Report.of([result("7"), asked], suite="nano-test", **named).to_json()
    assert record["suite_version"] == SUITE_VERSION
    assert (record["settings"]["budget"]["turns"], record["settings"]["temperature"]) == (3, 0.5)
    assert asked.to_json()["kind"] == "number"
