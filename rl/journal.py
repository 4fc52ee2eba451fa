"""What a training run leaves in its folder while it goes on: a row of numbers now and then, and the state to resume.

    metrics.jsonl            one row for every few steps, or one an iteration
    checkpoint.safetensors   f32 masters, moments, how far it is, and the numbers that no row has yet

A checkpoint is written beside its final name and renamed, so a kill at any point leaves an old one or a new one. A team
renames its parts when all are written, so a kill between two of the renames leaves the others ready to be renamed. Rows
that came after it are dropped when the run goes on from it: they come again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.errors import CheckpointError
from foveate.rl.lines import lines_of
from foveate.rl.optimizer import MasterOptimizer
from foveate.rl.team import ALONE, Team

Metrics = Mapping[str, Tensor | float]
"""Numbers for the log, those of a GPU still there: reading one waits for everything before it."""
METRICS, CHECKPOINT = "metrics.jsonl", "checkpoint.safetensors"
SKIPPED = "skipped"
"""In a row: how many steps had a gradient that was no number, and changed nothing."""


class Progress(NamedTuple):
    """How far a run is."""

    step: int = 0
    window: Sequence[Metrics] = ()
    """The numbers of the steps since the last row."""


def mean_of_each(rows: Sequence[Metrics]) -> dict[str, float]:
    """The mean of every number over the rows that have it; of steps that were skipped, how many."""
    keys = dict.fromkeys(key for row in rows for key in row)
    means = {key: fmean(float(row[key]) for row in rows if key in row) for key in keys}
    skipped = sum(SKIPPED in row for row in rows)
    return means | ({SKIPPED: float(skipped)} if skipped else {})


def checkpoint_name(team: Team) -> str:
    """The file of a process: each of a team writes its own part."""
    return CHECKPOINT if team.size == 1 else f"checkpoint-{team.rank + 1}-of-{team.size}.safetensors"


def save_checkpoint(out: Path, optimizer: MasterOptimizer, progress: Progress, team: Team = ALONE) -> None:
    """Write the optimizer (which holds the master weights) and how far the run is.

    Raises CheckpointError when the file cannot be written; the checkpoint before it stays as it was.
    """
    path, fresh = _paths(out, team)
    window = [{key: float(value) for key, value in row.items()} for row in progress.window]
    try:
        save_file(optimizer.state_tensors(), fresh, metadata={"step": str(progress.step), "window": json.dumps(window)})
        team.wait()
        fresh.replace(path)
    except (OSError, SafetensorError) as error:
        fresh.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path} ({error}); make room, then go on with --resume") from error


def _paths(out: Path, team: Team) -> tuple[Path, Path]:
    """Where this process's checkpoint lies, and where the next one is written."""
    path = out / checkpoint_name(team)
    return path, path.with_name(f"{path.name}.new")


def load_checkpoint(out: Path, optimizer: MasterOptimizer, team: Team = ALONE) -> Progress:
    """Restore `save_checkpoint`'s state; returns how far it was, step 0 when there is none yet.

    Raises CheckpointError when it is no safetensors file, or of another model or optimizer.
    """
    path = out / checkpoint_name(team)
    if not path.exists():
        return Progress()
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        optimizer.load_state_tensors(load_file(path))
        return Progress(int(about["step"]), json.loads(about.get("window", "[]")))
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"cannot go on from {path}: {error}; wanted the checkpoint of a run with these settings, or no --resume"
        ) from error


def resumed(out: Path, optimizer: MasterOptimizer, team: Team) -> Progress:
    """`load_checkpoint`, where a team agrees on what it found.

    Raises CheckpointError when it does not, and when what lies there is of another number of processes.
    """
    path, fresh = _paths(out, team)
    newest = team.most(_step_of(path))
    if _step_of(path) < newest == _step_of(fresh):  # a kill when some of the team had renamed theirs
        fresh.replace(path)
    others = [] if path.exists() else list(out.glob("checkpoint*.safetensors"))
    if team.most(len(others)):
        raise CheckpointError(f"the checkpoint in {out} is not one of {team.size} processes; start as many as before")
    progress = load_checkpoint(out, optimizer, team)
    if team.most(progress.step) != -team.most(-progress.step):
        raise CheckpointError(f"the processes' checkpoints in {out} are of different steps; start again without them")
    return progress


def refuse_another(out: Path, team: Team) -> None:
    """Raises CheckpointError when a run that begins in a folder would write over one that lies there."""
    path = out / METRICS
    if team.most(any(out.glob("checkpoint*.safetensors")) or (path.is_file() and bool(lines_of(path)))):
        raise CheckpointError(f"{out} holds a run already; go on with --resume, or name another folder")


def _step_of(path: Path) -> int:
    """Of the checkpoint in a file; 0 when there is none, or a half one."""
    try:
        with safe_open(path, "pt") as file:
            return int((file.metadata() or {})["step"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return 0


def keep_rows(path: Path, key: str, last: int) -> list[dict[str, Any]]:
    """Drop the rows of a JSONL file whose number under `key` is beyond `last`, and a half one; returns those kept."""
    kept: list[dict[str, Any]] = []
    for line in lines_of(path) if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:  # a kill in the middle of a line
            continue
        if key not in row:
            raise CheckpointError(
                f"{path} is of another kind of training: its rows have no {key!r}; name another folder"
            )
        kept += [row] if row[key] <= last else []
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    fresh.replace(path)
    return kept
