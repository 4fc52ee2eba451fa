"""A file is whole or as it was before, whoever writes it at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foveate.agent.replacing import replaced


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.json"
    path.write_text("before")
    return path


def test_what_is_written_takes_its_place_at_the_end(path: Path) -> None:
    with replaced(path) as part:
        part.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_raises_on_the_way_leaves_the_file_that_was_there(error: type[BaseException], path: Path) -> None:
    def write() -> None:
        with replaced(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]


def test_two_that_write_at_once_do_not_meet(path: Path) -> None:
    def other() -> None:
        with replaced(path) as part:
            part.write_text("other")

    with replaced(path) as part:
        part.write_text("own")
        with ThreadPoolExecutor(1) as threads:
            threads.submit(other).result()
        assert path.read_text() == "other"
    assert path.read_text() == "own"
    assert list(path.parent.iterdir()) == [path]
