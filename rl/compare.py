"""Trainings of a policy beside each other: `python -m foveate.rl.compare runs/pmd-0 runs/grpo-0 ... --out FILE.png`.

It prints a table in Markdown and draws accuracy and policy tokens over time. Runs whose folders differ in the number at
the end are seeds of one training and become one row, with the mean and the range. What a run says of itself is of the
questions that it learned from; an `eval.json` in its folder, which `foveate eval ... --json` prints, is of unseen ones:
`--evaluate N` asks the first N of nano-test of each run that has none yet. DPO and the imitation before it play nothing
themselves: they have the second alone. It needs the extra `train`.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from foveate.extras import from_extra
from foveate.rl.curves import parser_of_runs, read_metrics
from foveate.rl.evaluate import evaluate
from foveate.rl.writing import replaced

ENDS = 3
"""Iterations whose mean stands for the beginning or the end of a run: each asks other questions."""
EVAL = "eval.json"
COLUMNS = ("training", "seeds", "iterations, steps", "minutes", "accuracy", "policy tokens", "unseen: right", "tokens")
Rows = list[dict[str, float]]


def by_training(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """The seeds of each training, in the order given."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for run in runs:
        groups[run.name.rstrip("0123456789").rstrip("-_") or run.name].append(run)
    return dict(groups)


def table(runs: Sequence[Path]) -> str:
    """A row for each training. Raises ConfigError for a folder without a log."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for name, seeds in by_training(runs).items():
        logs = [read_metrics(seed) for seed in seeds]
        cells = [
            name,
            str(len(seeds)),
            _spread([log[-1].get("step", len(log)) for log in logs], "{:.0f}".format),
            _spread([log[-1]["seconds"] / 60 for log in logs], "{:.0f}".format),
            _from_to(logs, "accuracy", "{:.1%}".format),
            _from_to(logs, "policy_tokens", "{:.0f}".format),
            *_unseen(seeds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """The mean, and the range where there is one."""
    low, high = shown(min(values)), shown(max(values))
    return low if low == high else f"{shown(fmean(values))} ({low} to {high})"


def _from_to(logs: Sequence[Rows], key: str, shown: Callable[[float], str]) -> str:
    if any(key not in log[0] for log in logs):
        return ""
    first, last = ([fmean(row[key] for row in rows) for rows in ends] for ends in zip(*map(_ends, logs), strict=True))
    return f"{_spread(first, shown)} → {_spread(last, shown)}"


def _ends(log: Rows) -> tuple[Rows, Rows]:
    return log[:ENDS], log[-ENDS:]


def _unseen(seeds: Sequence[Path]) -> list[str]:
    """Accuracy and policy tokens of the evaluations that are there."""
    reports: list[dict[str, Any]] = [json.loads(path.read_text()) for s in seeds if (path := s / EVAL).is_file()]
    if not reports:
        return ["", ""]
    accuracy = _spread([report["accuracy"] for report in reports], "{:.1%}".format)
    return [f"{accuracy} of {reports[0]['n']}", _spread([r["policy_tokens"] for r in reports], "{:.0f}".format)]


def evaluate_all(runs: Sequence[Path], limit: int, workers: int) -> None:
    """Ask what comes out of each run that has not been asked yet the first questions of nano-test."""
    for run in runs:
        if not (run / EVAL).exists():
            report = evaluate("nano-test", model=run, limit=limit, workers=workers)
            with replaced(run / EVAL) as path:
                path.write_text(json.dumps(report.to_json()))


def draw(runs: Sequence[Path], out: Path) -> None:
    """Accuracy and policy tokens over minutes, a colour for each training."""
    with from_extra("train", "matplotlib"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = dict(zip(("accuracy", "policy_tokens"), figure.subplots(1, 2), strict=True))
    for which, (name, seeds) in enumerate(by_training(runs).items()):
        for number, log in enumerate(map(read_metrics, seeds)):
            minutes = [row["seconds"] / 60 for row in log]
            for key, panel in panels.items() if "accuracy" in log[0] else ():
                values = [row[key] for row in log]
                panel.plot(minutes, values, color=f"C{which}", linewidth=1.2, label=None if number else name)
    for key, panel in panels.items():
        panel.set(title=f"{key.replace('_', ' ')} of sampled conversations", xlabel="minutes")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    parser = parser_of_runs(str(__doc__))
    parser.add_argument("--evaluate", metavar="N", type=int)
    parser.add_argument("--workers", metavar="N", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.evaluate:
        evaluate_all(arguments.runs, arguments.evaluate, arguments.workers)
    draw(arguments.runs, arguments.out)
    print(table(arguments.runs))
