"""Pairs go to a file a few at a time, and a file is there when all are (tests/rl/test_trl_rows.py reads them back)."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch
from pictures import noise

from foveate.agent.images import ImageStore
from foveate.agent.messages import assistant_message, question_message
from foveate.errors import ImageError, InputError
from foveate.rl.pair_rows import PART, write_rows
from foveate.rl.pairs import Pair
from foveate.rl.trajectory import Saved
from foveate.rl.writing import beside

STORE = ImageStore()
SHOWN = STORE.put(noise(40, 40))


def side(answer: str, sha256: str = SHOWN) -> Saved:
    return Saved(
        id=answer, group=0, family="label", question="?", expected="x", answer=answer, right=answer == "x", reward=1.0,
        status="answered", tool_calls=0, messages=(question_message("?", [sha256]), assistant_message(answer)), run={},
        sampled_S=torch.zeros(3), pictures=STORE,
    )  # fmt: skip


PAIR = Pair(side("x"), side("y"), "right")


def test_what_came_before_is_on_disk_already(tmp_path: Path) -> None:
    path, sizes = tmp_path / "some.parquet", list[int]()

    def pairs() -> Iterator[Pair]:
        for _ in range(3 * PART):
            sizes.append(beside(path).stat().st_size)
            yield PAIR

    assert write_rows(pairs(), path) == 3 * PART
    assert sizes[0] < sizes[PART] < sizes[2 * PART]
    assert sizes[PART] == sizes[2 * PART - 1]
    assert len(datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path))) == 3 * PART


def test_what_goes_wrong_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    path.write_text("what was before")
    with pytest.raises(ImageError, match="not in the store"):
        write_rows([PAIR, Pair(side("x"), side("y", "0" * 64), "right")], path)
    assert path.read_text() == "what was before"
    assert [file.name for file in tmp_path.iterdir()] == ["some.parquet"]
    with pytest.raises(InputError, match=r"cannot write .*none/some\.parquet \(No such file"):
        write_rows([PAIR], tmp_path / "none" / "some.parquet")
    (tmp_path / "file.jsonl").touch()
    with pytest.raises(InputError, match=r"cannot write .*file\.jsonl/some\.parquet \(Not a directory\); name another"):
        write_rows([PAIR], tmp_path / "file.jsonl" / "some.parquet")
    with pytest.raises(InputError, match="no pair to write"):
        write_rows([], path)
    assert path.read_text() == "what was before"
