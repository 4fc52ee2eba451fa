"""Every number of a configuration that makes no sense is refused with its key, the value and what is wanted."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveate.errors import ConfigError
from foveate.rl.bonus import BonusConfig
from foveate.rl.dpo import DpoConfig
from foveate.rl.grpo import GrpoConfig
from foveate.rl.length import LengthPenalty
from foveate.rl.lessons.demonstrators import Demonstrators
from foveate.rl.optimizer import OptimizerConfig
from foveate.rl.pmd import PmdConfig
from foveate.rl.policy_config import PolicyConfig, RayConfig
from foveate.rl.preference import PreferenceConfig
from foveate.rl.sampler import SamplerConfig
from foveate.rl.sft import SftConfig
from foveate.rl.stages import main
from foveate.rl.tower import TowerConfig
from foveate.rl.train import TrainConfig
from foveate.rl.trainable import LoraConfig

CONFIGS = Path(__file__).parents[2] / "configs"


def policy(**values: Any) -> PolicyConfig:
    return PolicyConfig(**{"start": "", "iterations": 1} | values)


def loop(**values: Any) -> TrainConfig:
    return TrainConfig(**{"steps": 1} | values)


def preference(**values: Any) -> PreferenceConfig:
    return PreferenceConfig(start="", data="", **values)


@pytest.mark.parametrize(
    ("make", "key", "values"),
    [
        (PmdConfig, "pmd.tau", [0.0, -0.1, math.nan, math.inf]),
        (PmdConfig, "pmd.clip", [(1.1, 1.2), (0.8, 0.9), (-0.1, 1.2)]),
        (DpoConfig, "stage.dpo.beta", [0.0, -1.0]),
        (DpoConfig, "stage.dpo.label_noise", [0.5, 0.9, -0.1]),
        (GrpoConfig, "grpo.clip_low", [-0.1, 1.1]),
        (GrpoConfig, "grpo.clip_high", [-0.1]),
        (GrpoConfig, "grpo.eps", [0.0]),
        (SamplerConfig, "sampler.families", [()]),
        (SamplerConfig, "sampler.curriculum", [0]),
        (LengthPenalty, "length.weight", [-0.5]),
        (LengthPenalty, "length.warmup_iterations", [-1]),
        (LengthPenalty, "length.least_spread", [-0.1]),
        (BonusConfig, "bonus.tool", [-0.1]),
        (OptimizerConfig, "optimizer.lr", [-1e-3, math.nan]),
        (OptimizerConfig, "optimizer.betas", [(0.9, 1.0), (-0.1, 0.9)]),
        (OptimizerConfig, "optimizer.clip_norm", [0.0]),
        (OptimizerConfig, "optimizer.momentum", [1.0]),
        (OptimizerConfig, "optimizer.final_lr_fraction", [1.5]),
        (OptimizerConfig, "optimizer.weight_decay", [-0.1]),
        (OptimizerConfig, "optimizer.warmup_steps", [-1]),
        (OptimizerConfig, "optimizer.decay_steps", [-1]),
        (RayConfig, "ray.actors", [-1]),
        (RayConfig, "ray.staleness", [-1]),
        (LoraConfig, "lora.rank", [-1]),
        (LoraConfig, "lora.alpha", [0]),
        (Demonstrators, "stage.demonstrators.idle", [1.5]),
        (SftConfig, "stage.page_share", [-0.1, 1.1]),
        (SftConfig, "stage.tokens_per_batch", [0]),
        (SftConfig, "stage.dense_coef", [-1.0]),
        (TowerConfig, "stage.blocks_per_batch", [0]),
        (TowerConfig, "stage.scene_share", [2.0]),
        (policy, "iterations", [0]),
        (policy, "at_once", [0, -1]),
        (policy, "policy_tokens", [0]),
        (policy, "tokens_per_batch", [-1]),
        (policy, "partial", [1.0, -0.1]),
        (loop, "steps", [0]),
        (loop, "accumulate", [0]),
        (loop, "log_every", [0]),
        (loop, "echo_after", [-1]),
        (loop, "num_workers", [-1]),
        (loop, "checkpoint_minutes", [-1.0]),
        (preference, "stage.pairs_per_batch", [0]),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[..., Any], key: str, values: list[Any]) -> None:
    name = key.rpartition(".")[2]
    make()
    for value in values:
        with pytest.raises(ConfigError) as told:
            make(**{name: value})
        assert str(told.value).startswith(f"{key} is {value!r}, wanted ")


def test_conversations_that_wait_are_an_iteration_old() -> None:
    with pytest.raises(ConfigError, match=r"ray\.staleness is 0 and partial 0\.5"):
        policy(partial=0.5, ray=RayConfig(actors=1))
    policy(partial=0.5, ray=RayConfig(actors=1, staleness=1))
    with pytest.raises(ConfigError, match=r"ray\.gpus is 0 and device 'cuda'; wanted as many as each actor shall have"):
        policy(device="cuda", ray=RayConfig(actors=1))
    with pytest.raises(ConfigError, match=r"ray\.gpus is 0\.5 and device 'cpu'"):
        policy(ray=RayConfig(actors=1, gpus=0.5))
    policy(device="cuda", ray=RayConfig(actors=1, gpus=0.5))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RayConfig(staleness=2), r"ray\.staleness is 2 without actors"),
        (lambda: RayConfig(gpus=1.5), r"ray\.gpus is 1\.5, wanted a part of one, or a whole number of them"),
        (lambda: PmdConfig(baseline="partition", level="token"), r"pmd\.baseline is partition and pmd\.level token"),
        (lambda: SftConfig(page_share=0.7, sheet_share=0.6), r"page_share is 0\.7 and stage\.sheet_share 0\.6; wanted"),
        (
            lambda: SamplerConfig(curriculum=5),
            r"^sampler\.curriculum is 5, which is read where sampler\.order is 'curriculum', and it is 'uniform'",
        ),
        (
            lambda: PmdConfig(clip=(0.9, 1.2)),
            r"^pmd\.clip is \(0\.9, 1\.2\), which is read where pmd\.level is 'token', and it is 'sequence'",
        ),
        (
            lambda: DpoConfig(loss="hinge", label_noise=0.2),
            r"^stage\.dpo\.label_noise is 0\.2, which is read where stage\.dpo\.loss is 'robust', and it is 'hinge'",
        ),
    ],
)
def test_what_nobody_would_read_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    ("objective", "file"), [("pmd", "nano-grpo"), ("grpo", "nano-pmd"), ("rloo", "nano-pmd-no-length")]
)
def test_the_file_of_another_objective_is_refused(objective: str, file: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"nano-.*yaml sets (grpo|pmd), which {objective} does not read"):
        main(objective, CONFIGS / f"{file}.yaml", tmp_path)


@pytest.mark.parametrize(("prompts", "actors"), [(30, 1), (12, 1), (48, 1), (16, 2), (7, 3)])
def test_a_share_that_is_no_question_is_refused_with_one_that_is(prompts: int, actors: int) -> None:
    ray = RayConfig(actors=actors, staleness=1)
    with pytest.raises(ConfigError, match="less than one question each") as told:
        policy(prompts=prompts, partial=0.5 * actors / prompts, ray=ray)
    wanted = float(str(told.value).split("wanted ")[1].split()[0])
    assert policy(prompts=prompts, partial=wanted, ray=ray).most_left(actors) == 1
