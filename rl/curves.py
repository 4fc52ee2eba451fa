"""The curves of trainings as one picture: `python -m foveate.rl.curves runs/a runs/b --out curves.png`.

A row for each run: its losses on the left, on a logarithmic axis, and on the right the shares that are right. It needs
the extra `train`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from foveate.errors import ConfigError
from foveate.extras import from_extra
from foveate.rl.journal import METRICS
from foveate.rl.lines import lines_of

LOSSES = ("loss", "nll", "first_look", "second_look", "third_look", "balance")
COUNTERS = ("step", "iteration")
HIDDEN = (*COUNTERS, "seconds", "lr", "grad_norm")


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The rows that a training has logged. Raises ConfigError when there are none."""
    path = run / METRICS
    rows: list[dict[str, float]] = list(map(json.loads, lines_of(path))) if path.is_file() else []
    if not rows:
        raise ConfigError(f"no rows in {path}, wanted the folder of a training that has logged its first steps")
    return rows


def draw_curves(runs: Sequence[Path], out: Path) -> None:
    """Write a picture of the logs of some runs."""
    with from_extra("train", "matplotlib"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), 2, squeeze=False)
    for run, (left, right) in zip(runs, axes, strict=True):
        rows = read_metrics(run)
        counter = next(name for name in COUNTERS if name in rows[0])
        for name in dict.fromkeys(name for row in rows for name in row if name not in HIDDEN):
            points = [(row[counter], row[name]) for row in rows if name in row]
            (left if name in LOSSES else right).plot(*zip(*points, strict=True), label=name, linewidth=1)
        left.set(title=f"{run.name}: losses", yscale="log")
        right.set(title=f"{run.name}: shares right", ylim=(max(0.0, right.get_ylim()[0]), 1.0))
        for panel in (left, right):
            panel.set_xlabel(counter)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
    figure.savefig(out, dpi=90)


def parser_of_runs(description: str) -> argparse.ArgumentParser:
    """A command line that names the folders of runs, and the picture to write."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    return parser


if __name__ == "__main__":
    arguments = parser_of_runs(str(__doc__)).parse_args()
    draw_curves(arguments.runs, arguments.out)
