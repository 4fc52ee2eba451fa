"""`foveate bench`: what the native operations are worth on this machine."""

import json
from typing import Annotated

import typer


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; all without a name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each comparison.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", metavar="S", help="About how long each takes.")] = 10.0,
) -> int:
    """Compare Foveate's operations with what one would run instead, interleaved in one run."""
    from foveate.benchmarks.measure import rows

    if not as_json:
        print(f"{'operation':18}{'dtype':10}{'ours':>10}  {'peer':14}{'peer':>10}{'ratio':>8}{'floor':>10}   ms, shape")
    for row in rows(names or [], seconds):
        print(json.dumps(row) if as_json else _line(row), flush=True)
    return 0


def _line(row: dict[str, object]) -> str:
    floor = "" if row["floor_ms"] is None else f"{row['floor_ms']:.3f}"
    return (
        f"{row['op']:18}{row['dtype']:10}{row['ours_ms']:>10.3f}  {row['peer']:14}{row['peer_ms']:>10.3f}"
        f"{row['ratio']:>7.2f}x{floor:>10}   {row['shape']}"
    )
