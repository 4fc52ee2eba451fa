"""A result file as a table in Markdown: `python -m foveate.benchmarks.table benchmarks/results/FILE.json [README.md]`.

With a second file the table is written there, between the two lines that say so; tests hold README.md to it.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveate.benchmarks.measure import WITHOUT
from foveate.errors import InputError

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
COLUMNS = ("operation", "shape", "dtype", "ours, ms", "floor, ms", "times as fast as")
PEERS = {WITHOUT: "without kernels"}
SHORT = {"bfloat16": "bf16", "float32": "f32"}


def table(result: dict[str, Any]) -> str:
    """What was measured where, and a row for each operation; peers stand beside each other."""
    lines = [
        f"On {result['hardware']}, torch {result['torch']}, {result['date']} (`{result['command']}`):",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
    ]
    for rows in _by_case(result["rows"]):
        row = rows[0]
        floor = "" if row["floor_ms"] is None else f"{row['floor_ms']:.3g}"
        peers = ", ".join(f"{PEERS.get(peer['peer'], peer['peer'])} {peer['ratio']:.2g}" for peer in rows)
        cells = (row["op"], row["shape"], SHORT.get(row["dtype"], row["dtype"]), f"{row['ours_ms']:.4g}", floor, peers)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_case(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    cases: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault((row["op"], row["shape"], row["dtype"]), []).append(row)
    return list(cases.values())


def written_into(page: str, text: str) -> str:
    """The page with the text between its two lines. Raises InputError when it has not both."""
    before, begun, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise InputError(f"the page has no place for the table; wanted the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main(arguments: Sequence[str]) -> None:
    """Print the table of a result file, or write it into a page."""
    text = table(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    if len(arguments) == 1:
        print(text)
        return
    page = Path(arguments[1])
    page.write_text(written_into(page.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
