"""`foveate train`: one stage of the training."""

import os
from pathlib import Path
from typing import Annotated

import typer

from foveate.paths import expanded

KERNELS_KEPT = "4096"
"""oneDNN compiles a kernel for each new shape and keeps 1,024; a training has more shapes than that."""


def train(
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="tower, sft, dpo, pmd, grpo or rloo.")],
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The stage's settings, YAML.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where checkpoints and the log go.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in DIR.")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one.")] = None,
    max_minutes: Annotated[float | None, typer.Option("--max-minutes", metavar="M", help="Most minutes.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="In place of the file's: what is drawn and sampled.")
    ] = None,
) -> int:
    """Train one stage of the thinker."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS_KEPT)  # read when torch first multiplies
    from foveate.rl.stages import main
    from foveate.rl.team import leave

    config, out = expanded(config), expanded(out)
    main(stage, config, out, resume=resume, overrides=tuple(overrides or ()), max_minutes=max_minutes, seed=seed)
    leave()
    return 0
