"""A result file over several sizes becomes a picture; one without is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.benchmarks.plot import main
from foveate.errors import InputError


def row(op: str, size: int | None, ours: float, peer: str = "torch") -> dict[str, object]:
    return {"op": op, "size": size, "ours_ms": ours, "peer": peer, "peer_ms": 2 * ours, "floor_ms": ours / 2}


def written(folder: Path, rows: list[dict[str, object]]) -> list[str]:
    result = {"date": "2026-01-02", "hardware": "a laptop", "torch": "2.13.0", "rows": rows}
    (folder / "result.json").write_text(json.dumps(result))
    return [str(folder / "result.json"), str(folder / "out.png")]


def test_every_operation_has_a_panel(tmp_path: Path) -> None:
    widths = []
    for ops in (("mla_decode",), ("mla_decode", "window_core", "moe_prefill", "gqa_decode")):
        main(written(tmp_path, [row(op, size, size / 100) for op in ops for size in (64, 512)]))
        drawn = np.asarray(Image.open(tmp_path / "out.png").convert("L"))
        widths.append((drawn.shape[0], int((drawn < 128).sum())))
    (one_line, one_ink), (two_lines, four_ink) = widths
    assert two_lines == 2 * one_line
    assert four_ink > 2 * one_ink


def test_rows_without_a_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row says a size"):
        main(written(tmp_path, [row("nano_ask", None, 1.0)]))
