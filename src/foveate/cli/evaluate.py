"""`foveate eval`: accuracy on a suite, with the controls that say whether looking mattered."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.cli.options import ModelOption
from foveate.cli.reasoner import known_model


def evaluate(
    context: typer.Context,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="nano-test, or a folder with answers.jsonl.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Only N questions.")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Draws the suite's questions and samples.")] = 0,
    control: Annotated[
        Literal["blank", "no-tools"] | None,
        typer.Option("--control", help="blank greys every crop, no-tools takes the tools away."),
    ] = None,
    model: ModelOption = "nano",
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Processes, each with its own model.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write every trace, one a line.")] = None,
) -> int:
    """Measure accuracy on a suite of questions with known answers."""
    reasoner = context.obj(model) if workers == 1 else known_model(model)
    from foveate.agent.plain import printable
    from foveate.rl.evaluate import evaluate as run

    report = run(
        suite,
        model=reasoner,
        limit=limit,
        seed=seed,
        control=control,
        out=out,
        progress=sys.stderr.isatty(),
        workers=workers,
    )
    print(json.dumps(report.to_json()) if as_json else printable(report.to_text()))
    return 0
