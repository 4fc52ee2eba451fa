"""`foveate rollout`: let a model answer questions several times and keep every conversation."""

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.options import USUAL, ImageTokensOption, TemperatureOption, TokensOption, TurnsOption
from foveate.paths import expanded


def rollout(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="FILE.jsonl, with its pictures beside it.")],
    model: Annotated[
        Path,
        typer.Option(
            "--model", "-m", metavar="DIR", help="nano, a checkpoint folder, or OWNER/NAME of the hub (fetched)."
        ),
    ],
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="NAME,...|DIR", help="Families of questions, all, or your own folder.")
    ] = "all",
    prompts: Annotated[int, typer.Option("--prompts", metavar="N", help="Questions.")] = 64,
    samples: Annotated[int, typer.Option("--samples", metavar="N", help="Conversations about each.")] = 8,
    at_once: Annotated[int, typer.Option("--at-once", metavar="N", help="Conversations in flight.")] = 16,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Where the model computes: cpu, cuda.")
    ] = "cpu",
    max_turns: TurnsOption = 8,
    max_tokens: TokensOption = 480,
    max_image_tokens: ImageTokensOption = USUAL.image_tokens,
    temperature: TemperatureOption = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the questions and the sampling.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Play what a killed run left out of FILE.")] = False,
) -> int:
    """Write trajectories of questions, drawn or your own, token for token."""
    from foveate.rl.rollouts import asked_of, roll_out

    config = asked_of(
        expanded(model), tasks, prompts=prompts, samples=samples, at_once=at_once, turns=max_turns,
        policy_tokens=max_tokens, image_tokens=max_image_tokens, seed=seed, device=device,
    )  # fmt: skip
    print(roll_out(config, expanded(out), temperature=temperature, resume=resume))
    return 0
