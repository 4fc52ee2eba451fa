"""`foveate pairs`: what rollouts say about better and worse, as a dataset for other trainers."""

from pathlib import Path
from typing import Annotated

import typer

from foveate.paths import expanded


def pairs(
    rollouts: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `foveate rollout`.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="FILE.parquet in TRL's form.")],
) -> int:
    """Pair conversations about one question: right over wrong, evidence seen over unseen, short over long."""
    from foveate.rl.pair_rows import write_rows
    from foveate.rl.pairs import pairs_of
    from foveate.rl.trajectory import read_trajectories

    print(f"{write_rows(pairs_of(read_trajectories(expanded(rollouts))), expanded(out))} pairs")
    return 0
