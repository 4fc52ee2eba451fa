"""The rows of a training in the trackers that people watch: TensorBoard, trackio, Weights & Biases.

Nothing leaves the machine unless a tracker that was asked for is set up to send it. metrics.jsonl and report.html are
written in any case.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from foveate.errors import ConfigError
from foveate.rl.writing import replaced

Tracker = Literal["tensorboard", "trackio", "wandb"]
Log = Callable[[int, Mapping[str, float]], None]
"""Takes a step and its row."""
PROJECT = "foveate"
WANDB_ID = "wandb-id.txt"


@contextmanager
def tracked(names: Sequence[Tracker], out: Path, done: int | None = None) -> Iterator[Log]:
    """What to call with each row inside the block; the run has the name of its folder.

    One that goes on after `done` steps, which may be none, stays the run that it was. Rows that a kill left beyond them
    come again: TensorBoard drops the old ones, wandb the new ones, which are the same, and trackio has both.

    Raises ConfigError for a tracker that is not installed.
    """
    with ExitStack() as stack:
        logs = [
            stack.enter_context(_tensorboard(out, done) if name == "tensorboard" else _run(name, out, done))
            for name in names
        ]

        def log(step: int, row: Mapping[str, float]) -> None:
            for one in logs:
                one(step, row)

        yield log


def _imported(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"trackers names {package}, which is not installed: pip install {package}") from error


@contextmanager
def _tensorboard(out: Path, done: int | None) -> Iterator[Log]:
    module = _imported("torch.utils.tensorboard", "tensorboard")
    with module.SummaryWriter(out / "tensorboard", purge_step=None if done is None else done + 1) as writer:

        def log(step: int, row: Mapping[str, float]) -> None:
            for name, value in row.items():
                writer.add_scalar(name, value, step)

        yield log


@contextmanager
def _run(name: str, out: Path, done: int | None) -> Iterator[Log]:
    """A tracker with the interface of wandb, which trackio has too; wandb knows a run by an id, trackio by its name."""
    module = _imported(name, name)
    if name == "wandb":
        module.init(project=PROJECT, name=out.name, id=_id(out, done), resume="allow")
    else:
        module.init(project=PROJECT, name=out.name, resume="never" if done is None else "allow")
    try:
        yield lambda step, row: module.log(dict(row), step=step)
    finally:
        module.finish()


def _id(out: Path, done: int | None) -> str:
    """The one that a run had when it began, kept in its folder."""
    path = out / WANDB_ID
    if done is None or not path.is_file():
        with replaced(path) as fresh:
            fresh.write_text(uuid4().hex)
    return path.read_text()
