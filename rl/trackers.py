"""The rows of a training in the trackers that people watch: TensorBoard, trackio, Weights & Biases.

Nothing leaves the machine unless a tracker that was asked for is set up to send it. metrics.jsonl and report.html are
written in any case.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from foveate.errors import ConfigError

Tracker = Literal["tensorboard", "trackio", "wandb"]
Log = Callable[[int, Mapping[str, float]], None]
"""Takes a step and its row."""
PROJECT = "foveate"


@contextmanager
def tracked(names: Sequence[Tracker], out: Path) -> Iterator[Log]:
    """What to call with each row inside the block; the run has the name of its folder.

    Raises ConfigError for a tracker that is not installed.
    """
    with ExitStack() as stack:
        logs = [stack.enter_context(_tensorboard(out) if name == "tensorboard" else _run(name, out)) for name in names]

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
def _tensorboard(out: Path) -> Iterator[Log]:
    with _imported("torch.utils.tensorboard", "tensorboard").SummaryWriter(out / "tensorboard") as writer:

        def log(step: int, row: Mapping[str, float]) -> None:
            for name, value in row.items():
                writer.add_scalar(name, value, step)

        yield log


@contextmanager
def _run(name: str, out: Path) -> Iterator[Log]:
    """A tracker with the interface of wandb, which trackio has too."""
    module = _imported(name, name)
    module.init(project=PROJECT, name=out.name)
    try:
        yield lambda step, row: module.log(dict(row), step=step)
    finally:
        module.finish()
