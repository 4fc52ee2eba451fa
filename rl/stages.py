"""The stages by name: what `foveate train STAGE --config FILE` runs."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from foveate.errors import ConfigError
from foveate.models.config import from_json
from foveate.rl.train import Stage, read_yaml, split_config, train

STAGES = {
    "tower": ("foveate.rl.tower", "TowerConfig", "TowerStage"),
    "sft": ("foveate.rl.sft", "SftConfig", "SftStage"),
}


def make_stage(name: str, values: dict[str, Any], seed: int, device: str = "cpu") -> Stage:
    """Build a stage from its part of a configuration, with its model on a device.

    Raises ConfigError when the stage or the device is unknown, or the device is not there.
    """
    check_device(device)
    if name not in STAGES:
        raise ConfigError(f"unknown stage {name!r}; known stages are {', '.join(STAGES)}")
    module_name, config_name, stage_name = STAGES[name]
    module = import_module(module_name)
    stage: Stage = getattr(module, stage_name)(from_json(getattr(module, config_name), values, "stage."), seed, device)
    return stage


def check_device(device: str) -> None:
    """Raise ConfigError unless torch can compute there."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device is {device!r}, which torch cannot use ({reason}); wanted cpu, or cuda") from error


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
    """Train one stage as its YAML file says; returns the number of steps done."""
    loop, values = split_config(read_yaml(config, overrides))
    made = make_stage(stage, values, loop.seed if seed is None else seed, loop.device)
    return train(made, loop, out, resume=resume, max_minutes=max_minutes)
