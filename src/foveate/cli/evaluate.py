"""`foveate eval`: accuracy on a suite, with the controls that say whether looking mattered."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.cli.options import (
    USUAL,
    DeviceOption,
    ImageTokensOption,
    ModelOption,
    SecondsOption,
    TemperatureOption,
    TokensOption,
    TurnsOption,
    budget_of,
)
from foveate.models.device import AUTO
from foveate.models.load import known_model
from foveate.paths import expanded


def evaluate(
    context: typer.Context,
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="nano-test, nano-validation, or a folder with answers.jsonl.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="Only N questions.")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Draws the suite's questions and samples.")] = 0,
    control: Annotated[
        Literal["blank", "no-tools"] | None,
        typer.Option("--control", help="blank greys every crop, no-tools takes the tools away."),
    ] = None,
    model: ModelOption = "nano",
    device: DeviceOption = AUTO,
    max_turns: TurnsOption = USUAL.turns,
    max_tokens: TokensOption = USUAL.policy_tokens,
    max_image_tokens: ImageTokensOption = USUAL.image_tokens,
    max_seconds: SecondsOption = USUAL.seconds,
    temperature: TemperatureOption = 0.0,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Processes, each with its own model.")] = 1,
    at_once: Annotated[
        int,
        typer.Option(
            "--at-once", metavar="N", help="Questions in flight, decoded together; the seconds of each go by meanwhile."
        ),
    ] = 1,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write every trace, one a line.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Ask what a killed run left out of FILE.")] = False,
) -> int:
    """Measure accuracy on a suite of questions with known answers; exits 1 when one of them ends in an error."""
    budget = budget_of(turns=max_turns, tokens=max_tokens, image_tokens=max_image_tokens, seconds=max_seconds)
    reasoner = context.obj(model, device) if workers == 1 else known_model(model)
    from foveate.agent.plain import printable
    from foveate.rl.evaluate import evaluate as run

    report = run(
        suite,
        model=reasoner,
        limit=limit,
        seed=seed,
        control=control,
        budget=budget,
        temperature=temperature,
        out=None if out is None else expanded(out),
        resume=resume,
        workers=workers,
        at_once=at_once,
        device=device if workers > 1 else AUTO,
    )
    print(json.dumps(report.to_json()) if as_json else printable(report.to_text()))
    return 1 if "error" in report.statuses else 0
