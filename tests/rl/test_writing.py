"""A file is there as it was or as it shall be, and what a full disk refuses is one line.

Proved with a limit on the length of files.
"""

from pathlib import Path

import pytest
from disk import full_disk

from foveate.errors import CheckpointError
from foveate.models import Thinker
from foveate.rl.journal import METRICS, add_row
from foveate.rl.page import write_page
from foveate.rl.writing import append, made, replaced


def test_a_line_goes_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    append(path, "first é\n")
    with full_disk(12), pytest.raises(CheckpointError, match=r"cannot write .*some\.jsonl .*make room"):
        append(path, "second\n")
    assert path.read_text(encoding="utf-8") == "first é\n"


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text("before")
    with full_disk(100), pytest.raises(CheckpointError, match="make room"), replaced(path) as fresh:
        fresh.write_text("x" * 1000)
    assert [one.name for one in tmp_path.iterdir()] == ["some.txt"]
    assert path.read_text() == "before"


def test_a_model_stays_when_the_next_finds_no_room(thinker: Thinker, tmp_path: Path) -> None:
    thinker.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with full_disk(4096), pytest.raises(CheckpointError, match=r"cannot write the model into .*make room"):
        thinker.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_rows_and_the_page_stay(tmp_path: Path) -> None:
    add_row(tmp_path, {"iteration": 1, "accuracy": 0.5, "seconds": 1.0})
    page = write_page(tmp_path).read_text()
    rows = (tmp_path / METRICS).read_text()
    with full_disk(len(rows)):
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl"):
            add_row(tmp_path, {"iteration": 2, "accuracy": 0.5, "seconds": 1.0})
        with pytest.raises(CheckpointError, match=r"report\.html"):
            write_page(tmp_path)
    assert (tmp_path / METRICS).read_text() == rows
    assert (tmp_path / "report.html").read_text() == page
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write into .*file"):
        made(tmp_path / "file")
