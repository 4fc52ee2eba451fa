"""`foveate trace`: conversations of rollouts as pages to look at."""

from pathlib import Path
from typing import Annotated

import typer

from foveate.paths import expanded


def trace(
    rollouts: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `foveate rollout`.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="DIR/index.html, and a folder for each.")],
    lines: Annotated[
        list[int] | None, typer.Argument(metavar="[LINE]...", help="Which, counted from 1; the first 20 without.")
    ] = None,
) -> int:
    """Write a page for each conversation of a rollout, with its picture, crops and steps."""
    from foveate.rl.traces import write_traces

    print(write_traces(expanded(rollouts), expanded(out), lines or ()))
    return 0
