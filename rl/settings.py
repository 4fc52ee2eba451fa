"""Which run a checkpoint is of: what is trained and all its settings, kept with it and compared when it goes on.

Some may change on the way: how long a run is and how its learning rate ends, what is shown and saved when, where and
by how many it is computed. A setting that only one of both has is new or gone since, and is not compared; a checkpoint
that was written before settings were kept has none.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foveate.errors import CheckpointError, InputError
from foveate.paths import expanded
from foveate.rl.sources import answers_of, files_of, source_of, stamps_of, weights_of

Settings = Mapping[str, Any]
"""Values by key, as in `--set`; and TRAINING."""
TRAINING = "training"
"""What is trained, as the command line names it: sft, dpo, pmd."""
MAY_CHANGE = frozenset({
    "steps", "iterations", "optimizer.decay_steps", "optimizer.final_lr_fraction",
    "log_every", "checkpoint_minutes", "trackers", "examples", "recompute", "stage.recompute",
    "device", "num_workers", "at_once", "tokens_per_batch", "ray.actors", "ray.gpus", "ray.staleness",
})  # fmt: skip
"""At the top `tokens_per_batch` says how much a policy computes at once; of sft it is part of what a step learns."""

READ = (
    ("start", "weights", weights_of), ("stage.start", "weights", weights_of), ("stage.data", "files", files_of),
    ("tasks", "files", answers_of),
)  # fmt: skip
"""What is read from files, which may have changed under the same name."""


def settings_of(training: str, config: Any, stage: Any = None) -> Settings:
    """The settings of a run by key, in the form in which they come back from a file."""
    values = {TRAINING: training, **_flat(asdict(config)), **_flat(asdict(stage) if stage else {}, "stage.")}
    try:
        values |= {
            f"{key} ({kind})": source_of(stamps_of(*files(values[key]))) for key, kind, files in READ if values.get(key)
        }
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from error
    settings: Settings = json.loads(json.dumps(values))
    return settings


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def refuse_others(saved: Settings, settings: Settings, path: Path) -> None:
    """Raises CheckpointError naming the first setting that has changed and may not."""
    for key in (key for key in settings if key in saved and key not in MAY_CHANGE):
        if saved[key] != settings[key]:
            raise CheckpointError(
                f"cannot go on from {path}: {key} was {saved[key]!r} and is {settings[key]!r}; "
                "set it as it was, or name another folder for another run"
            )


def refuse_start(settings: Settings, out: Path) -> None:
    """Raises CheckpointError when a run would write over the weights that it starts from."""
    start = settings.get("stage.start", settings.get("start"))
    where = expanded(start).resolve() if start else None
    if where is not None and out.resolve() in (where, where.parent if where.is_file() else where):
        raise CheckpointError(f"the run starts from {start} and would write over it; name another folder with --out")
