"""Drawn suites are balanced, each of its split; a folder is checked line by line before a question."""

import json
import re
from collections import Counter
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from foveate.errors import ConfigError, InputError
from foveate.rl.sources import answers_of
from foveate.rl.suite import NO_FAMILY, PER_FAMILY, DrawnSuite, FolderSuite, chosen, open_suite
from foveate.rl.tasks.scene import FAMILIES

REAL = Path(__file__).parents[2] / "examples" / "real"
GOOD = {"id": "a", "image": "a.png", "question": "What?", "answer": "7"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    return tmp_path


def write(folder: Path, *records: Any) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_drawn_suite_is_large_and_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.rl.suite.drawn_item", lambda family, *_: family)
    suite = DrawnSuite()
    assert len(suite) >= 1000
    assert PER_FAMILY >= 150
    assert Counter(map(suite.item, range(len(suite)))) == Counter(dict.fromkeys(FAMILIES, PER_FAMILY))


def test_each_drawn_suite_draws_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.rl.suite.drawn_item", lambda *drawn: drawn)
    for split in ("test", "validation"):
        suite = open_suite(f"nano-{split}", seed=2)
        assert suite.name == f"nano-{split}"
        assert suite.item(7) == (FAMILIES[1], 2 * PER_FAMILY + 1, split, suite.name)


def test_a_limit_keeps_a_drawn_suite_balanced_and_samples_a_folder(folder: Path) -> None:
    assert chosen(DrawnSuite("validation"), limit=12, seed=5) == range(12)
    suite = FolderSuite(write(folder, *(GOOD | {"id": str(idx)} for idx in range(20))))
    assert chosen(suite, limit=None, seed=0) == range(20)
    assert chosen(suite, limit=99, seed=0) == range(20)
    sample = chosen(suite, limit=5, seed=0)
    assert len(set(sample)) == 5
    assert sample == chosen(suite, limit=5, seed=0) != chosen(suite, limit=5, seed=1)
    with pytest.raises(InputError, match="wanted at least 1"):
        chosen(suite, limit=0, seed=0)


def test_a_folder_is_read(folder: Path) -> None:
    more = GOOD | {"id": "b", "accept": ["seven"], "family": "page", "evidence_bbox": [1, 2, 3.5, 4], "type": "number"}
    two = GOOD | {"id": "c", "evidence_bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}
    suite = open_suite(str(write(folder, GOOD, "", more, two)))
    assert len(suite) == 3
    assert suite.item(0).family == NO_FAMILY
    assert suite.item(0).evidence == ()
    assert suite.item(1).accept == ("seven",)
    assert [suite.item(idx).kind for idx in range(3)] == ["any", "number", "any"]
    assert suite.item(1).evidence == ((1.0, 2.0, 3.5, 4.0),)
    assert len(suite.item(2).evidence) == 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "answers.jsonl:1 is not JSON"),
        ("[]", "wanted an object"),
        ({"id": "a"}, "wanted an object with id, image, question, answer"),
        (GOOD | {"anwser": "8"}, "wanted an object"),
        (GOOD | {"answer": 7}, "got answer=7, wanted some text"),
        (GOOD | {"question": " "}, "wanted some text"),
        (GOOD | {"accept": "seven"}, "wanted a list of texts"),
        (GOOD | {"family": 3}, "wanted a name"),
        (GOOD | {"type": "date"}, "got type='date', wanted one of any, text, number, choice, set, formula"),
        (GOOD | {"type": ["set"]}, "wanted one of any"),
        (GOOD | {"image": "missing.png"}, "wanted a picture inside"),
        (GOOD | {"image": "../a.png"}, "wanted a picture inside"),
        (GOOD | {"image": "answers.jsonl"}, "answers.jsonl:1: got image='answers.jsonl' .*, wanted a picture that can"),
        (GOOD | {"evidence_bbox": [3, 2, 1, 4]}, "wanted x0, y0, x1, y1"),
        (GOOD | {"evidence_bbox": [1, 2, 3]}, "wanted x0, y0, x1, y1"),
        (GOOD | {"evidence_bbox": [True, 2, 3, 4]}, "wanted x0, y0, x1, y1"),
        (GOOD | {"evidence_bbox": []}, "wanted x0, y0, x1, y1"),
        (GOOD | {"evidence_bbox": [1, 2, 41, 4]}, "wanted x0, y0, x1, y1 inside its 40 x 30 pixels"),
        (GOOD | {"evidence_bbox": [[1, 2, 3, 4], [1, 2, 3, 31]]}, "inside its 40 x 30 pixels"),
        (GOOD | {"evidence_bbox": [0, 0, float("inf"), 4]}, "got evidence_bbox=.0, 0, inf, 4., wanted"),
        ("", "holds no question"),
    ],
)
def test_a_bad_line_is_named(folder: Path, record: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FolderSuite(write(folder, record))


@pytest.mark.parametrize("name", ["a" * 5000, "a\0.png"], ids=["long", "nul"])
def test_what_could_be_no_name_of_a_picture_is_told_in_short(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"answers\.jsonl:2: got image='a.*, wanted a picture inside") as told:
        FolderSuite(write(folder, GOOD, GOOD | {"id": "b", "image": name}))
    assert len(str(told.value)) < 200 + 2 * len(str(folder))
    assert "\0" not in str(told.value)


def test_formulas_need_math_verify_before_a_question_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, GOOD | {"type": "formula"})
    assert FolderSuite(folder).item(0).kind == "formula"

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    with pytest.raises(ConfigError, match="math-verify"):
        FolderSuite(folder)


def test_a_box_is_one_of_the_upright_picture(folder: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (40, 30), "white").save(folder / "turned.jpg", exif=exif)
    tall = GOOD | {"image": "turned.jpg", "evidence_bbox": [0, 0, 30, 40]}
    assert FolderSuite(write(folder, tall)).item(0).evidence == ((0.0, 0.0, 30.0, 40.0),)
    with pytest.raises(InputError, match="inside its 30 x 40 pixels"):
        FolderSuite(write(folder, tall | {"evidence_bbox": [0, 0, 40, 30]}))


def test_an_id_twice_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="the id 'a' twice"):
        FolderSuite(write(folder, GOOD, GOOD))


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted nano-test, nano-validation or a folder with answers"):
        open_suite(str(tmp_path / "none"))
    for name in ("", "x" * 5000, "a\0b"):
        with pytest.raises(InputError, match=f"^got the suite {re.escape(repr(name))}, wanted nano-test"):
            open_suite(name)
    with pytest.raises(InputError, match="cannot be read"):
        open_suite(str(tmp_path))


def test_a_home_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    write(folder, GOOD)
    suite = open_suite(f"~/{folder.name}")
    assert (suite.name, suite.item(0).picture) == (folder.name, folder / "a.png")
    assert answers_of(f"~/{folder.name}") == [folder / "answers.jsonl", folder / "a.png"]


def test_the_real_pictures() -> None:
    """Committed pictures open, their boxes lie inside them, and every one has its licence."""
    suite = FolderSuite(REAL)
    licences = (REAL / "LICENSES.md").read_text(encoding="utf-8")
    pictures = set()
    assert len(suite) >= 30
    for item in (suite.item(idx) for idx in range(len(suite))):
        assert isinstance(item.picture, Path)
        with Image.open(item.picture) as image:
            width, height = image.size
        assert 600 <= max(width, height) <= 2500
        assert item.evidence
        assert all(x1 <= width and y1 <= height for _, _, x1, y1 in item.evidence)
        assert f"| {item.picture.name} |" in licences
        pictures.add(item.picture.name)
    assert {path.name for path in (REAL / "pictures").iterdir()} == pictures
