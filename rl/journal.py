"""What a training run leaves in its folder while it goes on: a row of numbers now and then, and the state to resume.

    metrics.jsonl            one row for every few steps, or one an iteration
    checkpoint.safetensors   f32 masters, moments, how far it is, the numbers that no row has yet, and the settings

A checkpoint is written beside its final name and renamed, so a kill at any point leaves an old one or a new one. A team
renames its parts when all are written, so a kill between two of the renames leaves the others ready to be renamed. Rows
that came after it are dropped when the run goes on from it: they come again.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.errors import CheckpointError
from foveate.models.shards import INDEX, SINGLE
from foveate.rl.lines import lines_of
from foveate.rl.optimizer import MasterOptimizer
from foveate.rl.settings import Settings, refuse_others
from foveate.rl.team import ALONE, Team
from foveate.rl.writing import append, beside, replaced

Metrics = Mapping[str, Tensor | float]
"""Numbers for the log, those of a GPU still there: reading one waits for everything before it."""
UNITS = ("iteration", "step")
"""What a row counts by."""
METRICS, CHECKPOINT = "metrics.jsonl", "checkpoint.safetensors"
TOWER = "tower.safetensors"
MODELS = (SINGLE, INDEX, TOWER, "config.json")
"""Files of a folder that holds a model."""
SKIPPED = "skipped"
"""In a row: how many steps had a gradient that was no number, and changed nothing."""


class Progress(NamedTuple):
    """How far a run is."""

    step: int = 0
    window: Sequence[Metrics] = ()
    """The numbers of the steps since the last row."""


def checkpoint_name(team: Team) -> str:
    """The file of a process: each of a team writes its own part."""
    return CHECKPOINT if team.size == 1 else f"checkpoint-{team.rank + 1}-of-{team.size}.safetensors"


def finite(row: Mapping[str, float]) -> dict[str, float]:
    """The numbers of a row that are any; JSON has no others."""
    return {key: value for key, value in row.items() if math.isfinite(value)}


def add_row(out: Path, row: Mapping[str, float]) -> None:
    """Add a row to metrics.jsonl. Raises CheckpointError when there is no room for it."""
    append(out / METRICS, json.dumps(row, allow_nan=False) + "\n")


def save_checkpoint(
    out: Path, optimizer: MasterOptimizer, progress: Progress, team: Team = ALONE, settings: Settings | None = None
) -> None:
    """Write the optimizer (which holds the master weights), how far the run is, and which run it is.

    Raises CheckpointError when the file cannot be written; the checkpoint before it stays as it was.
    """
    window = [{key: float(value) for key, value in row.items()} for row in progress.window]
    about = {"step": progress.step, "window": window, "settings": settings or {}}
    with replaced(out / checkpoint_name(team)) as fresh:
        save_file(optimizer.state_tensors(), fresh, metadata={key: json.dumps(value) for key, value in about.items()})
        team.wait()


def load_checkpoint(
    out: Path, optimizer: MasterOptimizer, team: Team = ALONE, settings: Settings | None = None
) -> Progress:
    """Restore `save_checkpoint`'s state; returns how far it was, step 0 when there is none yet.

    Raises CheckpointError when it is no safetensors file, or of a run with other settings, model or optimizer.
    """
    path = out / checkpoint_name(team)
    if not path.exists():
        return Progress()
    with _told(path):
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
        refuse_others(json.loads(about.get("settings", "{}")), settings or {}, path)
        optimizer.load_state_tensors(load_file(path))
        return Progress(int(about["step"]), json.loads(about.get("window", "[]")))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"cannot go on from {path}: {error}; wanted the checkpoint of a run of this model, or no --resume"
        ) from error


def resumed(out: Path, optimizer: MasterOptimizer, team: Team, settings: Settings | None = None) -> Progress:
    """`load_checkpoint`, where a team agrees on what it found.

    Raises CheckpointError when it does not, when what lies there is of another number of processes, and when it is a
    model that no run has left.
    """
    path = out / checkpoint_name(team)
    fresh, newest = beside(path), team.most(_step_of(path))
    if _step_of(path) < newest == _step_of(fresh):  # a kill when some of the team had renamed theirs
        fresh.replace(path)
    others = [] if path.exists() else list(out.glob("checkpoint*.safetensors"))
    if team.most(len(others)):
        raise CheckpointError(f"the checkpoint in {out} is not one of {team.size} processes; start as many as before")
    if team.most(not path.exists() and not (out / METRICS).is_file()):
        refuse_model(out, team)
    progress = load_checkpoint(out, optimizer, team, settings)
    if team.most(progress.step) != -team.most(-progress.step):
        raise CheckpointError(f"the processes' checkpoints in {out} are of different steps; start again without them")
    return progress


def begun(out: Path, optimizer: MasterOptimizer, team: Team, settings: Settings, *, resume: bool) -> Progress:
    """How far the run in a folder is: at its start, or where it was when it is to be gone on with.

    Raises CheckpointError for what `refuse_another` or `resumed` refuses.
    """
    if resume:
        return resumed(out, optimizer, team, settings)
    refuse_another(out, team)
    return Progress()


def refuse_early(out: Path, settings: Settings, *, resume: bool) -> None:
    """What `begun` refuses, but for the number of processes, before the stage is made, which may take hours.

    Raises CheckpointError.
    """
    parts = sorted(out.glob("checkpoint*.safetensors"))
    if not resume:
        refuse_another(out, ALONE)
    elif parts:  # each of a team's has the settings
        with _told(parts[0]), safe_open(parts[0], "pt") as file:
            refuse_others(json.loads((file.metadata() or {}).get("settings", "{}")), settings, parts[0])
    elif not (out / METRICS).is_file():
        refuse_model(out, ALONE)


def refuse_another(out: Path, team: Team) -> None:
    """Raises CheckpointError when a run that begins in a folder would write over a run or a model that lies there."""
    path = out / METRICS
    if team.most(any(out.glob("checkpoint*.safetensors")) or (path.is_file() and bool(lines_of(path)))):
        raise CheckpointError(f"{out} holds a run already; go on with --resume, or name another folder")
    refuse_model(out, team)


def refuse_model(out: Path, team: Team) -> None:
    """Raises CheckpointError when a folder that holds no run holds a model."""
    found = [name for name in MODELS if (out / name).exists()]
    if team.most(len(found)):
        raise CheckpointError(f"{out} holds a model that is not this run's ({', '.join(found)}); name another folder")


def _step_of(path: Path) -> int:
    """Of the checkpoint in a file; 0 when there is none, or a half one."""
    try:
        with safe_open(path, "pt") as file:
            return int((file.metadata() or {})["step"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return 0


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file but for a half one, which a kill in the middle of a line leaves; none without a file."""
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def keep_rows(path: Path, key: str, last: int) -> list[dict[str, Any]]:
    """Drop the rows of a JSONL file whose number under `key` is beyond `last`, and a half one; returns those kept."""
    kept: list[dict[str, Any]] = []
    for row in rows_of(path):
        if key not in row:
            raise CheckpointError(
                f"{path} is of another kind of training: its rows have no {key!r}; name another folder"
            )
        kept += [row] if row[key] <= last else []
    with replaced(path) as fresh:
        fresh.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    return kept
