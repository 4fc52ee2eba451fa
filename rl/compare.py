"""Trainings of a policy beside each other: `python -m foveate.rl.compare runs/pmd-0 runs/grpo-0 ... --out FILE.png`.

It prints a table in Markdown and draws accuracy and policy tokens over time. Runs whose folders differ in the number at
the end are seeds of one training and become one row, with the mean and the range. What a run says of itself is of the
questions that it learned from; what it answers to others is asked with `--evaluate N`, N of `--suite` (the first ones,
of a folder some at random), and kept in its folder with how far the run was. A run that has gone on since, or was asked
another number or with another budget, is asked again. To choose by one suite and report another, ask nano-validation of
all and nano-test of what was chosen. DPO and the imitation before it play nothing themselves: they have the second
alone. It needs the extra `train`.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from foveate.agent.budget import Budget
from foveate.errors import InputError
from foveate.extras import from_extra
from foveate.paths import expanded, is_file
from foveate.rl.curves import Rows, count_of, parser_of_runs, read_metrics, save_picture, told_in_a_line
from foveate.rl.evaluate import evaluate
from foveate.rl.learner import OF_FAMILY, TOKENS_OF_FAMILY
from foveate.rl.policy_config import USUAL
from foveate.rl.report import Report
from foveate.rl.sources import answers_of, source_of, stamps_of, weights_in
from foveate.rl.suite import ANSWERS, DRAWN, SUITE_VERSION
from foveate.rl.writing import made, replaced

ENDS = 3
"""Iterations whose mean stands for the beginning or the end of a run: each asks other questions."""
SUITE = "nano-validation"
COLUMNS = ("training", "seeds", "iterations, steps", "minutes", "accuracy", "policy tokens")


def by_training(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """The seeds of each training, in the order given; those of one name in several folders have these before it."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for run in runs:
        groups[run.parent, run.name.rstrip("0123456789").rstrip("-_") or run.name].append(run)
    times = Counter(name for _, name in groups)
    return {str(parent / name) if times[name] > 1 else name: seeds for (parent, name), seeds in groups.items()}


def table(runs: Sequence[Path], suite: str = SUITE) -> str:
    """A row for each training, with what it answered to a suite. Raises ConfigError for a folder without a log."""
    columns = (*COLUMNS, f"{Path(suite).name}: right", "tokens")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for name, seeds in by_training(runs).items():
        logs = [read_metrics(seed) for seed in seeds]
        cells = [
            name,
            str(len(seeds)),
            _spread([count_of(log[-1]) for log in logs], "{:.0f}".format),
            _spread([log[-1]["seconds"] / 60 for log in logs], "{:.0f}".format),
            _from_to(logs, "accuracy", OF_FAMILY, "{:.1%}".format),
            _from_to(logs, "policy_tokens", TOKENS_OF_FAMILY, "{:.0f}".format),
            *_unseen(seeds, suite),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """The mean, and the range where there is one."""
    low, high = shown(min(values)), shown(max(values))
    return low if low == high else f"{shown(fmean(values))} ({low} to {high})"


def evened(log: Rows, key: str, of_family: str) -> list[tuple[float, float]]:
    """Seconds and a number of each row that has it, as the mean over families, which that over questions is not.

    A policy is asked more of what it gets wrong, so that one follows what it is asked. A family that was not asked in
    an iteration counts with what it had last. Rows may have no families.
    """
    points: list[tuple[float, float]] = []
    families: dict[str, float] = {}
    for row in log:
        families |= {name: value for name, value in row.items() if name.startswith(of_family)}
        if key in row:
            points.append((row["seconds"], fmean(families.values()) if families else row[key]))
    return points


def _from_to(logs: Sequence[Rows], key: str, of_family: str, shown: Callable[[float], str]) -> str:
    known = [[number for _, number in evened(log, key, of_family)] for log in logs]
    if not all(known):
        return ""
    first, last = ([fmean(values[part]) for values in known] for part in (slice(ENDS), slice(-ENDS, None)))
    return f"{_spread(first, shown)} → {_spread(last, shown)}"


def _unseen(seeds: Sequence[Path], suite: str) -> list[str]:
    """Accuracy and policy tokens of the seeds that were asked as they are now."""
    found = [(read_report(seed, suite), state_of(seed, suite)) for seed in seeds]
    reports = [report for report, now in found if now.items() <= report.items()]
    if not reports:
        return ["", ""]
    accuracy = _spread([report["accuracy"] for report in reports], "{:.1%}".format)
    counts = " and ".join(str(n) for n in sorted({report["n"] for report in reports}))
    some = f", {len(reports)} of {len(seeds)} seeds" if len(reports) < len(seeds) else ""
    rooms = sorted({report.get("image_tokens", USUAL.image_tokens) for report in reports})
    some += f", {' and '.join(map(str, rooms))} image tokens" if rooms != [USUAL.image_tokens] else ""
    cut = sum(report.get("statuses", {}).get("out_of_budget", 0) for report in reports)
    some += f", {cut} out of budget" if cut else ""
    return [f"{accuracy} of {counts}{some}", _spread([r["policy_tokens"] for r in reports], "{:.0f}".format)]


def report_file(run: Path, suite: str) -> Path:
    """Where what a run answered to a suite is kept."""
    return run / f"eval-{Path(suite).name}.json"


def read_report(run: Path, suite: str) -> Mapping[str, Any]:
    """What `foveate eval --json` prints, with `step`, `source` and `limit`; empty when the run was not asked."""
    path = report_file(run, suite)
    report: Mapping[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return report


def evaluate_all(
    runs: Sequence[Path],
    suite: str,
    limit: int,
    workers: int,
    image_tokens: int = USUAL.image_tokens,
    at_once: int = 1,
    ask: Callable[..., Report] = evaluate,
) -> None:
    """Ask the first questions of a suite of each run that was not asked them as it is now.

    Without a clock: what a run answers does not depend on what else the machine does.

    Raises ConfigError for a folder without a log, before a question is asked, and what `evaluate` raises.
    """
    budget = Budget(image_tokens=image_tokens, seconds=math.inf)
    wanted = [(run, state_of(run, suite) | {"limit": limit, "image_tokens": image_tokens}) for run in runs]
    for run, asked in wanted:
        if not asked.items() <= read_report(run, suite).items():
            report = ask(suite, model=run, limit=limit, workers=workers, at_once=at_once, budget=budget)
            with replaced(report_file(run, suite)) as path:
                path.write_text(json.dumps(report.to_json() | asked))


def state_of(run: Path, suite: str) -> dict[str, Any]:
    """What a report says that is of the run and of the suite as they are.

    Raises InputError for a suite that is neither drawn nor a folder with its answers.
    """
    if suite not in DRAWN and not is_file(expanded(suite) / ANSWERS):
        raise InputError(f"got the suite {suite}, wanted one of {', '.join(DRAWN)} or a folder with {ANSWERS}")
    questions = SUITE_VERSION if suite in DRAWN else (str(expanded(suite).resolve()), stamps_of(*answers_of(suite)))
    return {"step": count_of(read_metrics(run)[-1]), "source": source_of(questions, stamps_of(*weights_in(run)))}


def draw(runs: Sequence[Path], out: Path) -> None:
    """Accuracy and policy tokens over minutes, a colour for each training."""
    with from_extra("train", "matplotlib"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    kinds = (("accuracy", OF_FAMILY), ("policy_tokens", TOKENS_OF_FAMILY))
    panels = dict(zip(kinds, figure.subplots(1, 2), strict=True))
    for which, (name, seeds) in enumerate(by_training(runs).items()):
        for number, log in enumerate(map(read_metrics, seeds)):
            for (key, of_family), panel in panels.items():
                points = [(seconds / 60, number) for seconds, number in evened(log, key, of_family)]
                if points:
                    label = None if number else name
                    panel.plot(*zip(*points, strict=True), color=f"C{which}", linewidth=1.2, label=label)
    for (key, _), panel in panels.items():
        panel.set(title=f"{key.replace('_', ' ')} of sampled conversations", xlabel="minutes")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    save_picture(figure, out)


if __name__ == "__main__":
    parser = parser_of_runs(str(__doc__))
    parser.add_argument("--evaluate", metavar="N", type=int)
    parser.add_argument("--suite", metavar="NAME", default=SUITE)
    parser.add_argument("--max-image-tokens", metavar="N", type=int, default=USUAL.image_tokens)
    parser.add_argument("--workers", metavar="N", type=int, default=1)
    parser.add_argument("--at-once", metavar="N", type=int, default=1)
    arguments = parser.parse_args()
    with told_in_a_line():
        made(arguments.out.parent)
        if arguments.evaluate:
            asked = (
                arguments.suite,
                arguments.evaluate,
                arguments.workers,
                arguments.max_image_tokens,
                arguments.at_once,
            )
            evaluate_all(arguments.runs, *asked)
        print(table(arguments.runs, arguments.suite), flush=True)
        draw(arguments.runs, arguments.out)
