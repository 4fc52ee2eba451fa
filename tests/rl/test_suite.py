"""nano-test is balanced, reproducible and from the test split; a folder is checked line by line before a question."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.rl.suite import PER_FAMILY, FolderSuite, NanoTest, chosen, open_suite
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


def test_nano_test_is_large_and_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.rl.suite.drawn_item", lambda family, *_: family)
    suite = NanoTest()
    assert len(suite) >= 1000
    assert PER_FAMILY >= 150
    assert Counter(map(suite.item, range(len(suite)))) == Counter(dict.fromkeys(FAMILIES, PER_FAMILY))


def test_nano_test_is_reproducible() -> None:
    first, again, other = (NanoTest(seed=seed).item(6) for seed in (1, 1, 2))
    assert first.family == FAMILIES[0]
    assert (first.id, first.question, first.answer) == (again.id, again.question, again.answer)
    assert isinstance(first.picture, Image.Image)
    assert isinstance(again.picture, Image.Image)
    assert first.picture.tobytes() == again.picture.tobytes()
    assert first.id != other.id
    assert first.evidence


def test_a_limit_keeps_nano_test_balanced_and_samples_a_folder(folder: Path) -> None:
    assert chosen(NanoTest(), limit=12, seed=5) == range(12)
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
    assert suite.item(0).family == "all"
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
        (GOOD | {"type": "formula"}, "got type='formula', wanted one of any, text, number, choice, set"),
        (GOOD | {"type": ["set"]}, "wanted one of any"),
        (GOOD | {"image": "missing.png"}, "wanted a picture inside"),
        (GOOD | {"image": "../a.png"}, "wanted a picture inside"),
        (GOOD | {"image": "answers.jsonl"}, "answers.jsonl:1: got image='answers.jsonl' .*, wanted a picture that can"),
        (GOOD | {"evidence_bbox": [3, 2, 1, 4]}, "wanted x0, y0, x1, y1"),
        (GOOD | {"evidence_bbox": [1, 2, 3]}, "wanted x0, y0, x1, y1"),
        (GOOD | {"evidence_bbox": [True, 2, 3, 4]}, "wanted x0, y0, x1, y1"),
        (GOOD | {"evidence_bbox": []}, "wanted x0, y0, x1, y1"),
        ("", "holds no question"),
    ],
)
def test_a_bad_line_is_named(folder: Path, record: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FolderSuite(write(folder, record))


def test_an_id_twice_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="the id 'a' twice"):
        FolderSuite(write(folder, GOOD, GOOD))


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wanted nano-test or a folder with answers"):
        open_suite(str(tmp_path / "none"))
    with pytest.raises(InputError, match="cannot be read"):
        open_suite(str(tmp_path))


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
