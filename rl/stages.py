"""The stages by name: what `foveate train STAGE --config FILE` runs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch

from foveate.errors import ConfigError, ModelError, first_line
from foveate.models.config import from_json
from foveate.models.device import device_of
from foveate.rl.ending import Clock
from foveate.rl.examples import Examples, examples_of, leads
from foveate.rl.journal import refuse_early
from foveate.rl.page import write_page
from foveate.rl.settings import Settings, refuse_start, settings_of
from foveate.rl.team import choose_gpu
from foveate.rl.train import Stage, split_config, train
from foveate.rl.yaml_values import read_yaml

_LOGGER = logging.getLogger(__name__)
OBJECTIVES = ("pmd", "grpo", "rloo")
"""Trainings of a policy on its own rollouts (foveate.rl.policy)."""
OF_OBJECTIVES = {"pmd", "grpo"}
"""Sections of a policy's file that one objective reads."""
STAGES = {
    "tower": ("foveate.rl.tower", "TowerConfig", "TowerStage"),
    "sft": ("foveate.rl.sft", "SftConfig", "SftStage"),
    "dpo": ("foveate.rl.preference", "PreferenceConfig", "PreferenceStage"),
}
IMITATION = ("foveate.rl.imitation", "ImitationConfig", "ImitationStage")
"""What sft is when `stage.data` names conversations; without, it draws them."""


def parts_of(name: str, values: dict[str, Any]) -> tuple[str, str, str]:
    """Module, configuration and class of a stage with these settings. Raises ConfigError for an unknown stage."""
    if name not in STAGES:
        raise ConfigError(f"unknown stage {name!r}; known stages are {', '.join((*STAGES, *OBJECTIVES))}")
    return IMITATION if name == "sft" and "data" in values else STAGES[name]


def make_stage(name: str, values: dict[str, Any], seed: int, device: str = "cpu") -> Stage:
    """Build a stage from its part of a configuration, with its model on a device.

    Raises ConfigError when the stage or the device is unknown, or the device is not there.
    """
    take_device(device)
    module_name, _, stage_name = parts_of(name, values)
    stage: Stage = getattr(import_module(module_name), stage_name)(config_of(name, values), seed, device)
    return stage


def config_of(name: str, values: dict[str, Any]) -> Any:
    """The settings of a stage. Raises ConfigError when it is unknown, and for one that is none."""
    module_name, config_name, _ = parts_of(name, values)
    return from_json(getattr(import_module(module_name), config_name), values, "stage.")


def _train_policy(
    objective: str,
    config: Path,
    out: Path,
    *,
    resume: bool,
    overrides: tuple[str, ...],
    max_minutes: float | None,
    seed: int | None,
) -> int:
    from foveate.rl.policy import train_policy
    from foveate.rl.policy_config import PolicyConfig

    values = read_yaml(config, overrides)
    for other in (OF_OBJECTIVES & values.keys()) - {objective}:
        raise ConfigError(f"{config} sets {other}, which {objective} does not read; train {other}, or leave it out")
    settings = from_json(PolicyConfig, values)
    settings = settings if seed is None else replace(settings, seed=seed)
    _refuse(out, settings_of(objective, settings), resume=resume)
    take_device(settings.device)
    examples = examples_of(settings, settings.examples, out, settings.seed, settings.device)
    examples.ask("before", settings.start, again=not resume)
    clock = Clock((), max_minutes)
    done = train_policy(cast(Any, objective), settings, out, resume=resume, max_minutes=max_minutes)
    _asked_after(examples, out, done=done == settings.iterations or (done > 0 and clock.is_up()))
    return done


def _refuse(out: Path, settings: Settings, *, resume: bool) -> None:
    """Raises CheckpointError for what a run would refuse later, after hours perhaps."""
    refuse_start(settings, out)
    refuse_early(out, settings, resume=resume)


def _asked_after(examples: Examples, out: Path, *, done: bool) -> None:
    """Ask what a run has left, unless it was told to end before."""
    if done and examples.items and leads():
        examples.ask("after", out)
        write_page(out)


def take_device(device: str) -> None:
    """Take a device, of several GPUs this process's own. Raises ConfigError unless torch can compute there."""
    choose_gpu(device)
    device_of(device)
    if device == "cpu" and torch.cuda.is_available():
        _LOGGER.warning("the run computes on the processor, and torch sees a GPU: --set device=cuda takes it")


@contextmanager
def told_when_full() -> Iterator[None]:
    """A GPU without room inside the block is an error of the model, which says what may take less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the GPU has no room ({first_line(error)}); wanted recompute: true, less of tokens_per_batch, at_once, "
            "pairs_per_batch, image_tokens or policy_tokens, lora: {rank: 16}, or another GPU"
        ) from error


@told_when_full()
def main(
    stage: str,
    config: Path,
    out: Path,
    *,
    resume: bool = False,
    overrides: tuple[str, ...] = (),
    max_minutes: float | None = None,
    seed: int | None = None,
) -> int:
    """Train one stage as its YAML file says; returns the number of steps (of a policy, iterations) done.

    Raises ConfigError for a setting that is none, ModelError where a GPU has no room.
    """
    if max_minutes is not None and not max_minutes >= 0:
        raise ConfigError(f"max_minutes is {max_minutes}, wanted 0 or more")
    if stage in OBJECTIVES:
        return _train_policy(stage, config, out, resume=resume, overrides=overrides, max_minutes=max_minutes, seed=seed)
    loop, values = split_config(read_yaml(config, overrides))
    loop = loop if seed is None else replace(loop, seed=seed)
    config_of_stage = config_of(stage, values)
    _refuse(out, settings_of(stage, loop, config_of_stage), resume=resume)
    take_device(loop.device)
    examples = examples_of(config_of_stage, loop.examples, out, loop.seed, loop.device)
    examples.ask("before", config_of_stage.start, again=not resume)  # ahead of the stage, which has a model of its own
    made = make_stage(stage, values, loop.seed, loop.device)
    clock = Clock((), max_minutes)
    done = train(made, loop, out, kind=stage, resume=resume, max_minutes=max_minutes)
    del made
    _asked_after(examples, out, done=done == loop.steps or (done > 0 and clock.is_up()))
    return done
