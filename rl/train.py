"""The training loop that every stage shares: draw, step, log, checkpoint, resume.

A stage says how the batch of a step is drawn and what its loss is. Batch k depends on the seed and k alone and is drawn
in a worker process, so a resumed run sees the batches that the uninterrupted one would have seen, and on one processor
takes the very same steps (foveate.rl.journal has what it leaves behind).
"""

import math
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from foveate.errors import ConfigError, InputError, ModelError
from foveate.models.config import from_json
from foveate.rl.ending import Clock, told_to_stop
from foveate.rl.journal import (
    METRICS,
    SKIPPED,
    Metrics,
    Progress,
    add_row,
    begun,
    finite,
    keep_rows,
    save_checkpoint,
)
from foveate.rl.limits import NOT_NEGATIVE, at_least, check
from foveate.rl.optimizer import MasterOptimizer, OptimizerConfig, learn_from, learning_rate
from foveate.rl.page import write_page
from foveate.rl.policy_config import PolicyOptimizer
from foveate.rl.settings import Settings, refuse_start, settings_of
from foveate.rl.team import Team, gathered, joined, share_out, touching_all
from foveate.rl.trackers import Tracker, tracked
from foveate.rl.writing import made

DRAWING_NICENESS = 10
"""Added to that of the processes that draw: one that takes a core from a thread that learns keeps the others waiting.
With 2 cores a step of the tower took 0.82 s instead of 0.89, and 0.78 where threads that wait also sleep
(OMP_WAIT_POLICY=passive)."""
MOST_SKIPPED = 50
"""Steps in a row whose gradient is no number; more would learn nothing either."""
WEIGHT = "weight"
"""Among the numbers of a batch: how much it counts."""


class Stage(Protocol):
    """What a stage of training gives to the loop."""

    module: nn.Module
    config: Any
    """Its settings, a dataclass: kept with a checkpoint and compared when a run goes on."""
    reads_blocks: bool
    """Whether its loss reads weights of the network's blocks beside what they compute."""

    def batch(self, index: int) -> Any:
        """Batch `index`, of which a step takes one or several; called in a worker process, the same for an index."""
        ...

    def loss(self, batch: Any) -> tuple[Tensor, Metrics]:
        """The loss of a batch and numbers for the log."""
        ...

    def weight(self, batch: Any) -> float:
        """How much a batch counts among those of a step: what its loss is a mean over."""
        ...

    def export(self, folder: Path) -> None:
        """Write what the next stage or a user loads."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every stage needs; the rest of a YAML file goes to the stage itself."""

    steps: int
    seed: int = 0
    device: str = "cpu"
    """Where the model computes, as torch names it: cpu, cuda."""
    num_workers: int = 1
    accumulate: int = 1
    """Batches of a step, in each process; they count by what their loss is a mean over."""
    echo_after: int = 0
    """Each batch is used again when so many others have been drawn (data echoing); 0 for never. A GPU learns from a
    batch in less time than sixteen cores need to draw one."""
    checkpoint_minutes: float = 5.0
    log_every: int = 20
    examples: int = 0
    """Questions that are asked before the first step and after the last, for the page (foveate.rl.examples)."""
    trackers: tuple[Tracker, ...] = ()
    """Where the rows go beside metrics.jsonl."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        check(
            self, steps=at_least(1), num_workers=NOT_NEGATIVE, accumulate=at_least(1), echo_after=NOT_NEGATIVE,
            checkpoint_minutes=NOT_NEGATIVE, log_every=at_least(1), examples=NOT_NEGATIVE,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PolicyTrainConfig(TrainConfig):
    """The same for a stage that goes on with a policy."""

    optimizer: PolicyOptimizer = field(default_factory=PolicyOptimizer)


class _Batches(Dataset[Any]):
    """Batches by index, for a loader that draws ahead in another process."""

    def __init__(self, stage: Stage, idxs: Sequence[int]) -> None:
        self.stage, self.idxs = stage, idxs

    def __len__(self) -> int:
        return len(self.idxs)

    def __getitem__(self, which: int) -> Any:
        return self.stage.batch(self.idxs[which])


class _Loss(nn.Module):
    """A stage's loss as the forward pass of a module, which is where a team's weights come together."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage, self.module = stage, stage.module

    def forward(self, batch: Any) -> tuple[Tensor, Metrics]:
        """See Stage."""
        loss, metrics = self.stage.loss(batch)
        return touching_all(loss, self), metrics


def _start_worker(_: int) -> None:
    """A process that draws: behind the one that learns, and ended by that one alone.

    What is sent to a whole group, as a terminal does at Ctrl-C or when it closes, is for the process that saves.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_end_with_the_learner, daemon=True).start()
    torch.set_num_threads(1)
    os.nice(DRAWING_NICENESS)


def _end_with_the_learner() -> None:
    learner = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != learner:
        pass
    os._exit(0)


def batches(stage: Stage, start: int, config: TrainConfig, team: Team) -> Iterator[Any]:
    """This process's batches from step `start` on; a team deals them out in turns."""
    wanted = list(islice(echoed(config.echo_after), start * config.accumulate, config.steps * config.accumulate))
    loader = DataLoader(
        _Batches(stage, [number * team.size + team.rank for number in dict.fromkeys(wanted)]),
        batch_size=None,
        num_workers=config.num_workers,
        prefetch_factor=6 if config.num_workers else None,
        worker_init_fn=_start_worker,
        pin_memory=torch.device(config.device).type == "cuda",
    )
    return as_often(plainly(iter(loader)), wanted)


def plainly(drawn: Iterator[Any]) -> Iterator[Any]:
    """The same; of an InputError in a process that draws, where torch makes a page of its traceback, the last line."""
    try:
        yield from drawn
    except InputError as error:
        kind = type(error)
        last = str(error).strip().splitlines()[-1]
        raise kind(last.removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")) from error


def echoed(after: int) -> Iterator[int]:
    """The numbers from 0 and, by turns, the one of `after` before (data echoing, Choi et al., arXiv 1907.05550)."""
    for number in count():
        yield number
        if after and number >= after:
            yield number - after


def as_often(drawn: Iterator[Any], wanted: Sequence[int]) -> Iterator[Any]:
    """What was drawn for each number, which comes once, as often as the number is wanted."""
    left, kept = Counter(wanted), dict[int, Any]()
    for number in wanted:
        batch = kept.pop(number) if number in kept else next(drawn)
        left[number] -= 1
        if left[number]:
            kept[number] = batch
        yield batch


def train(
    stage: Stage,
    config: TrainConfig,
    out: Path,
    *,
    kind: str = "",
    resume: bool = False,
    max_minutes: float | None = None,
) -> int:
    """Run the stage to its last step, for `max_minutes` or until it is told to stop; returns how many steps are done.

    `kind` names the stage in checkpoints.

    `out` gets metrics.jsonl (a row every log_every steps), report.html, the newest checkpoint, and the stage's export.
    Processes that torchrun started share the work (foveate.rl.team). Raises ModelError when very many steps in a row
    have a gradient that is no number.
    """
    settings = settings_of(kind, config, stage.config)
    refuse_start(settings, out)
    made(out)
    with joined(config.device) as team, told_to_stop() as told, ExitStack() as stack:
        learner = share_out(_Loss(stage), team, reads_blocks=stage.reads_blocks)
        optimizer = MasterOptimizer(stage.module, config.optimizer)
        step, held = begun(out, optimizer, team, settings, resume=resume)
        track = stack.enter_context(tracked(config.trackers if team.leads else (), out, step if resume else None))
        window: list[Metrics] = list(held)
        skipped = 0
        rows = keep_rows(out / METRICS, "step", step) if team.leads else []
        clock = Clock(rows, max_minutes)
        saved = clock.seconds()
        bar = tqdm(
            total=config.steps, initial=step, dynamic_ncols=True, mininterval=2.0, disable=None if team.leads else True
        )
        drawn = batches(stage, step, config, team)
        while step < config.steps and (some := list(islice(drawn, config.accumulate))):
            numbers = _learn(learner, stage, some, team)
            lr = learning_rate(config.optimizer, step, config.steps)
            norm = optimizer.step(lr)
            window += [*numbers, {"grad_norm": norm}] if math.isfinite(norm) else [{SKIPPED: 1.0}]
            skipped = 0 if math.isfinite(norm) else skipped + 1
            _refuse_learning_nothing(skipped, step + 1)
            step += 1
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                row = finite(team.means(totals_of(window)))
                row |= {"step": step, "lr": lr, "seconds": round(clock.seconds(), 1)}
                _log(row, out, bar, team)
                track(step, row)
                window.clear()
            if team.most(told.stop or clock.is_up()):
                break
            if team.most(clock.seconds() - saved > 60 * config.checkpoint_minutes):
                _save(stage, learner, optimizer, Progress(step, window), out, team, settings)
                saved = clock.seconds()
        bar.close()
        _save(stage, learner, optimizer, Progress(step, window), out, team, settings)
    return step


def _refuse_learning_nothing(skipped: int, step: int) -> None:
    """Raises ModelError when so many steps in a row, up to this one, have been skipped."""
    if skipped == MOST_SKIPPED:
        raise ModelError(
            f"no gradient of the last {skipped} steps, up to {step}, is a number; look at the weights that it began "
            "with, or begin another run from its last ones with a lower optimizer.lr"
        )


def _learn(learner: nn.Module, stage: Stage, some: Sequence[Any], team: Team) -> list[Metrics]:
    """Add the gradient of the mean loss of a team's batches, by their weights; the numbers of each, the weight too."""
    numbers: list[Metrics] = []
    weights = [stage.weight(batch) for batch in some]
    total = team.total(sum(weights))
    for batch, weight in zip(some, weights, strict=True):
        loss, metrics = learner(batch)
        learn_from(loss, weight * team.size / total)  # a team's gradients are averaged
        numbers.append({"loss": loss.detach(), **metrics, WEIGHT: weight})
    return numbers


def totals_of(window: Sequence[Metrics]) -> dict[str, tuple[float, float]]:
    """Of each number the weighted sum over the batches or steps that have it, and their weights; of SKIPPED the count.

    A batch weighs as much as in the gradient, a step, or a batch that was kept without its weight, 1.
    """
    totals: dict[str, tuple[float, float]] = {}
    for numbers in window:
        weight = float(numbers.get(WEIGHT, 1.0))
        for key, number in numbers.items():
            total, weights = totals.get(key, (0.0, 0.0))
            totals[key] = total + weight * float(number), weights + weight
    totals.pop(WEIGHT, None)
    if SKIPPED in totals:
        totals[SKIPPED] = totals[SKIPPED][0], 1.0
    return totals


def _log(row: Mapping[str, float], out: Path, bar: "tqdm[Any]", team: Team) -> None:
    """Add a row to the log, and show it."""
    if team.leads:
        add_row(out, row)
        shown = {key: f"{value:.3f}" for key, value in row.items() if key not in ("step", "lr", "seconds")}
        bar.set_postfix(shown)


def _save(
    stage: Stage,
    learner: nn.Module,
    optimizer: MasterOptimizer,
    progress: Progress,
    out: Path,
    team: Team,
    settings: Settings,
) -> None:
    """Write the checkpoint, every process its part, and what the next stage or a user loads."""
    save_checkpoint(out, optimizer, progress, team, settings)
    with gathered(learner):
        if team.leads:
            stage.export(out)
            write_page(out)


def split_config(values: dict[str, Any]) -> tuple[TrainConfig, dict[str, Any]]:
    """The loop's part of a configuration and the stage's part (the mapping under `stage`).

    A stage that learns from `data` goes on with a policy that is there. Raises ConfigError naming a key that is wrong.
    """
    values = dict(values)
    stage = values.pop("stage", {})
    if not isinstance(stage, dict):
        raise ConfigError(f"stage is {stage!r}, wanted a mapping of keys to values")
    return from_json(PolicyTrainConfig if "data" in stage else TrainConfig, values), stage
