"""What a typed line names: a picture that is there, one that is not, or nothing."""

import re
import shlex
from pathlib import Path

import pytest

from foveate.agent.typed import missing_picture, picture_path


@pytest.mark.parametrize(
    "line", ["What is this?", "x" * 5000, "no\0thing", "/tmp", "etc.", "~50 cm or more?", "Is it as in photo.png", "-"]
)
def test_a_question_or_a_folder_is_no_picture(line: str) -> None:
    assert picture_path(line) is None
    assert missing_picture(line) is None


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("photo2.png", "photo2.png"),
        (" PHOTO.JPG ", "PHOTO.JPG"),
        ("/no/such/my photo.webp", "/no/such/my photo.webp"),
        ("~/my photo.tiff", "~/my photo.tiff"),
        ("'my photo.png'", "my photo.png"),
        ("my\\ photo.png", "my\\ photo.png"),
        ("x" * 5000 + ".png", "x" * 5000 + ".png"),
    ],
)
def test_a_picture_that_is_not_there(line: str, path: str) -> None:
    assert picture_path(line) is None
    assert missing_picture(line) == path


@pytest.mark.parametrize("name", ["photo (1).png", "it's.png", "a & b.png"])
def test_a_file_that_was_dropped_is_found_however_it_is_quoted(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"any")
    escaped = re.sub(r"([ ()'&])", r"\\\1", str(path))
    for line in (str(path), shlex.quote(str(path)), f'"{path}"', escaped):
        assert picture_path(line) == path, line


def test_a_file_without_a_suffix_is_a_picture_by_its_path_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "why").write_bytes(b"any")
    monkeypatch.chdir(tmp_path)
    assert picture_path("why") is None
    assert picture_path("./why") == Path("why")
    assert picture_path(str(tmp_path / "why")) == tmp_path / "why"
    assert missing_picture("./why") is None
