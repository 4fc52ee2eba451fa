"""Time against size, a panel for each operation: `python -m foveate.benchmarks.plot RESULT.json OUT.png`.

It draws the rows of a result file that say a size. It needs the extra `train`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import InputError
from foveate.extras import from_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
"""At most."""
GROWS = {"window_core": "patches", "window_layer": "patches", "full_attention": "patches",
         "decoder_attention": "tokens", "moe_prefill": "tokens", "linear": "tokens", "prefill": "pixels"}  # fmt: skip
SAME = {"decode_8k": "decode"}
"""What is one size of another operation."""
PAST = "tokens of the past"
Rows = list[dict[str, Any]]


def draw(result: dict[str, Any], out: Path) -> None:
    """Write the picture. Raises InputError when no row has a size."""
    with from_extra("train", "matplotlib"):
        from matplotlib.figure import Figure

    panels: dict[str, Rows] = {}
    for row in result["rows"]:
        if row.get("size") is not None:
            panels.setdefault(SAME.get(row["op"], row["op"]), []).append(row)
    if not panels:
        raise InputError("no row says a size; wanted the result of a measurement over several, such as `sizes`")
    columns = min(COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    peers = dict.fromkeys(row["peer"] for rows in panels.values() for row in rows)
    colors = {peer: f"C{number}" for number, peer in enumerate(peers)}
    for panel, (op, rows) in zip(axes, panels.items(), strict=False):
        _draw(panel, op, rows, colors)
    for unused in axes[len(panels) :]:
        unused.set_axis_off()
    figure.suptitle(f"{result['hardware']}, torch {result['torch']}, {result['date']}", fontsize=9)
    figure.savefig(out, dpi=90)


def _draw(panel: "Axes", op: str, rows: Rows, colors: dict[str, str]) -> None:
    rows = sorted(rows, key=lambda row: row["size"])
    first = [row for row in rows if row["peer"] == rows[0]["peer"]]
    sizes = [row["size"] for row in first]
    panel.plot(sizes, [row["ours_ms"] for row in first], color="black", linewidth=2, marker="o", label="ours")
    if all(row["floor_ms"] is not None for row in first):
        panel.plot(sizes, [row["floor_ms"] for row in first], color="black", linewidth=1, linestyle=":", label="floor")
    for peer in dict.fromkeys(row["peer"] for row in rows):
        points = [(row["size"], row["peer_ms"]) for row in rows if row["peer"] == peer]
        panel.plot(*zip(*points, strict=True), color=colors[peer], linewidth=1, marker=".", label=peer)
    panel.set(title=op, xlabel=GROWS.get(op, PAST), ylabel="ms", xscale="log", yscale="log")
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7)
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)


def main(arguments: Sequence[str]) -> None:
    """Draw a result file."""
    draw(json.loads(Path(arguments[0]).read_text(encoding="utf-8")), Path(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
