"""`foveate bench`: what the native operations are worth on this machine."""

import json
import math
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from foveate.errors import InputError
from foveate.paths import expanded

Row = dict[str, object]
HEAD = f"{'operation':18}{'dtype':10}{'ours':>10}  {'peer':14}{'peer':>10}{'ratio':>8}{'floor':>10}   ms, shape"


def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; those of README's table without a name.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, an object for each comparison.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="About how long each takes.")] = 10.0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Keep them, with date and hardware.")
    ] = None,
) -> int:
    """Compare Foveate's operations with what one would run instead, interleaved in one run.

    The peer "before" is Foveate in plain PyTorch.
    """
    if not 0 <= seconds < math.inf:
        raise InputError(f"got --seconds {seconds}, wanted 0 or more and an end")
    from foveate.benchmarks.measure import rows
    from foveate.benchmarks.record import kept

    measured = rows(names or [], seconds)
    for peer in ("transformers", *(["trl"] if "rl" in (names or []) else [])):
        if find_spec(peer) is None:
            print(f"foveate: {peer} is not installed, its rows are left out", file=sys.stderr)
    if out is not None:
        measured = kept(measured, expanded(out), " ".join(["foveate bench", *(names or []), f"--seconds {seconds:g}"]))
    (print_list if as_json else _print_table)(measured)
    return 0


def print_list(rows: Iterable[Row]) -> None:
    """One JSON list, each row on a line of its own as soon as it is measured."""
    ahead, end = "[", "[]"
    try:
        for row in rows:
            print(ahead, json.dumps(row), sep="", end="", flush=True)
            ahead, end = ",\n", "]"
    finally:
        print(end)


def _print_table(rows: Iterable[Row]) -> None:
    for number, row in enumerate(rows):
        if not number:
            print(HEAD)
        print(_line(row), flush=True)


def _line(row: Row) -> str:
    floor = "" if row["floor_ms"] is None else f"{row['floor_ms']:.3f}"
    return (
        f"{row['op']:18}{row['dtype']:10}{row['ours_ms']:>10.3f}  {row['peer']:14}{row['peer_ms']:>10.3f}"
        f"{row['ratio']:>7.2f}x{floor:>10}   {row['shape']}"
    )
