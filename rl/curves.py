"""The curves of trainings as one picture: `python -m foveate.rl.curves runs/a runs/b --out curves.png`.

A row for each run: its losses on a logarithmic axis, the numbers that are shares (0 to 1), and what is neither, where
there is any. It needs the extra `train`. Policies log no losses; foveate.rl.compare draws those.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import ConfigError, FoveateError, InputError
from foveate.extras import from_extra
from foveate.rl.journal import METRICS, UNITS, rows_of
from foveate.rl.writing import made

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = ("loss", "nll", "first_look", "second_look", "third_look", "balance")
HIDDEN = (*UNITS, "seconds", "lr", "grad_norm")
PICTURES = (".png", ".svg", ".pdf", ".jpg")
KINDS = ("losses", "shares", "other numbers")
Rows = list[dict[str, float]]
Curves = dict[str, list[tuple[float, float]]]
"""By name, points of how far the run was and the number."""


def read_metrics(run: Path) -> Rows:
    """The rows that a training has logged; of what was logged again after a resume, the later ones.

    Raises ConfigError when there are none.
    """
    rows: Rows = []
    for row in rows_of(run / METRICS):
        while rows and count_of(rows[-1]) >= count_of(row):
            rows.pop()
        rows.append(row)
    if not rows:
        raise ConfigError(
            f"no rows in {run / METRICS}, wanted the folder of a training that has logged its first steps"
        )
    return rows


def count_of(row: dict[str, float]) -> float:
    """How many steps or iterations were done."""
    return next(row[name] for name in UNITS if name in row)


def by_kind(run: Path) -> dict[str, Curves]:
    """The curves of a run, some of KINDS. Raises ConfigError when it logs no loss, or nothing."""
    rows = read_metrics(run)
    kinds: dict[str, Curves] = defaultdict(dict)
    for name in dict.fromkeys(name for row in rows for name in row if name not in HIDDEN):
        points = [(count_of(row), row[name]) for row in rows if name in row]
        share = all(0 <= number <= 1 for _, number in points)
        kinds[KINDS[0] if name in LOSSES else KINDS[1] if share else KINDS[2]][name] = points
    if KINDS[0] not in kinds:
        raise ConfigError(f"{run} logs no loss, as policies do not; python -m foveate.rl.compare draws those")
    return kinds


def draw_curves(runs: Sequence[Path], out: Path) -> None:
    """Write a picture of the logs of some runs. Raises ConfigError as `by_kind` does."""
    with from_extra("train", "matplotlib"):
        from matplotlib.figure import Figure

    curves = [by_kind(run) for run in runs]
    shown = [kind for kind in KINDS if any(kind in kinds for kinds in curves)]
    figure = Figure(figsize=(5.5 * len(shown), 3.4 * len(runs)), layout="constrained")
    for run, kinds, panels in zip(runs, curves, figure.subplots(len(runs), len(shown), squeeze=False), strict=True):
        for kind, panel in zip(shown, panels, strict=True):
            if kind not in kinds:
                panel.set_axis_off()
                continue
            for name, points in kinds[kind].items():
                panel.plot(*zip(*points, strict=True), label=name, linewidth=1)
            panel.set(title=f"{run.name}: {kind}", xlabel="steps")
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
            if kind == "losses":
                panel.set_yscale("log")
            elif kind == "shares":
                panel.set_ylim(max(0.0, panel.get_ylim()[0]), 1.0)
    save_picture(figure, out)


def save_picture(figure: "Figure", out: Path) -> None:
    """Write a picture. Raises InputError where it cannot be written."""
    try:
        figure.savefig(out, dpi=90)
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror}); name another file with --out") from error


def parser_of_runs(description: str) -> argparse.ArgumentParser:
    """A command line that names the folders of runs, and the picture to write."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=_picture_file, required=True)
    return parser


def _picture_file(name: str) -> Path:
    """For argparse, which says what is wrong and ends with 2."""
    path = Path(name)
    if path.suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f"got {name!r}, wanted a file that ends in {', '.join(PICTURES)}")
    return path


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """An error on purpose ends the program with one line and 2, as those of the command line do."""
    try:
        yield
    except FoveateError as error:
        print(f"foveate: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    arguments = parser_of_runs(str(__doc__)).parse_args()
    with told_in_a_line():
        made(arguments.out.parent)
        draw_curves(arguments.runs, arguments.out)
