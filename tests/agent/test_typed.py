"""What a typed line names: a picture that is there, one that is not, or nothing."""

import re
import shlex
from pathlib import Path

import pytest

from foveate.agent.typed import first_word, missing_pictures, path_of_none, picture_path, refuse_path
from foveate.errors import InputError


@pytest.mark.parametrize(
    "line", ["What is this?", "x" * 5000, "no\0thing", "/tmp", "etc.", "~50 cm or more?", "Is it as in photo.png", "-"]
)
def test_a_question_or_a_folder_is_no_picture(line: str) -> None:
    assert picture_path(line) is None
    assert missing_pictures(line) == []


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
    assert missing_pictures(line) == [path]


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
    assert missing_pictures("./why") == []


def test_of_several_pictures_those_that_are_not_there_are_named(tmp_path: Path) -> None:
    there = tmp_path / "a b.png"
    there.write_bytes(b"any")
    assert missing_pictures(f"'{there}' b.png /no/c.jpg") == ["b.png", "/no/c.jpg"]
    assert missing_pictures(f"'{there}' what is it?") == []


@pytest.mark.parametrize("line", ["~/", "./scan.heic", "../x", "file:///no/where", "/usr/lib", " '/usr/lib' "])
def test_a_folder_and_a_path_that_leads_nowhere_are_no_question(line: str) -> None:
    assert path_of_none(line) == line.strip().strip("'")


def test_a_path_with_a_question_after_it_is_refused_and_not_asked(tmp_path: Path) -> None:
    there = tmp_path / "Bob's.png"
    there.write_bytes(b"any")
    for line, said in (
        ("photos/typo.png\nWhat does it say?", "there is no file photos/typo.png"),
        ("~/typo.png\nWhat?", "there is no file ~/typo.png"),
        (f"{tmp_path}\nWhat?", f"{tmp_path} is no picture"),
        (f"{there} What does it say?", "on a line of its own"),
        (f'"{there}" What\'s this?', "on a line of its own"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            refuse_path(line)
    refuse_path("What is this?\nIs it photos/typo.png?")


@pytest.mark.parametrize("line", ["/nonsense", "usr", "./a or ./b: which?", "/dev/sda1 is red: why?", "~50 cm?"])
def test_a_question_is_no_path(line: str) -> None:
    assert path_of_none(line) is None


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("'a b.png' what's it?", "a b.png"),
        ("a\\ b.png what?", "a b.png"),
        ("why?", "why?"),
        ("'why", None),
        ("#1 a", "#1"),
    ],
)
def test_the_first_word_is_read_as_a_shell_does(line: str, word: str | None) -> None:
    assert first_word(line) == word
