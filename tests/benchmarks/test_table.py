"""README shows what the newest result file says."""

import json
from pathlib import Path

import pytest

from foveate.benchmarks.table import BEGIN, END, main, table, written_into
from foveate.errors import InputError

ROOT = Path(__file__).parents[2]


def row(op: str, peer: str, ratio: float, floor: float | None = 0.5) -> dict[str, object]:
    return {
        "op": op, "shape": "small", "dtype": "bfloat16", "threads": 2, "ours_ms": 12.3456, "peer": peer, "peer_ms": 1.0,
        "ratio": ratio, "floor_ms": floor,
    }  # fmt: skip


RESULT = {
    "date": "2026-01-02", "hardware": "a laptop", "torch": "2.13.0", "command": "foveate bench",
    "rows": [row("windows", "torch", 3.73), row("windows", "transformers", 7.32), row("step", "torch", 2.0, None)],
}  # fmt: skip


def test_peers_of_a_case_share_a_row() -> None:
    lines = table(RESULT).splitlines()
    assert lines[0] == "On a laptop, torch 2.13.0, 2026-01-02 (`foveate bench`):"
    assert lines[-2] == "| windows | small | bf16 | 12.35 | 0.5 | torch 3.7, transformers 7.3 |"
    assert lines[-1] == "| step | small | bf16 | 12.35 |  | torch 2 |"


def test_it_is_written_between_its_lines(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    (tmp_path / "page.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        main([str(tmp_path / "result.json"), str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == f"before\n{BEGIN}\n{table(RESULT)}\n{END}\nafter\n"
    with pytest.raises(InputError, match="no place for the table"):
        written_into("a page", "text")


def test_the_readme_shows_the_newest_results() -> None:
    newest = max((ROOT / "benchmarks" / "results").glob("*.json"))
    page = (ROOT / "README.md").read_text()
    assert written_into(page, table(json.loads(newest.read_text()))) == page
