"""Settings of a training of a policy on its own rollouts."""

import math
from dataclasses import dataclass, field
from typing import Literal

from foveate.agent.budget import Budget
from foveate.errors import ConfigError
from foveate.rl.bonus import BonusConfig
from foveate.rl.grpo import GrpoConfig
from foveate.rl.length import LengthPenalty
from foveate.rl.limits import BELOW_ONE, NOT_NEGATIVE, at_least, check
from foveate.rl.optimizer import OptimizerConfig
from foveate.rl.pmd import PmdConfig
from foveate.rl.sampler import SamplerConfig
from foveate.rl.tasks.scene import FAMILIES
from foveate.rl.trackers import Tracker
from foveate.rl.trainable import LoraConfig

COUNTS = (
    "iterations", "prompts", "samples", "at_once", "turns", "policy_tokens", "image_tokens", "tokens_per_batch",
    "updates",
)  # fmt: skip
USUAL = Budget()
Objective = Literal["pmd", "grpo", "rloo"]


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Who plays when it is not the process that learns."""

    actors: int = 0
    """Processes of Ray that play; 0 for none."""
    gpus: float = 0.0
    """Of each actor, with `device: cuda`; a part of one where several share it."""
    staleness: int = 0
    """By so many iterations the weights that played may be older than those that learn."""

    def __post_init__(self) -> None:
        check(self, "ray.", actors=NOT_NEGATIVE, gpus=NOT_NEGATIVE, staleness=NOT_NEGATIVE)
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ConfigError(f"ray.gpus is {self.gpus:g}, wanted a part of one, or a whole number of them")
        if self.staleness and not self.actors:
            raise ConfigError(
                f"ray.staleness is {self.staleness} without actors, and this process plays with the weights that it "
                "has; wanted ray.actors of at least 1, or staleness 0"
            )


@dataclass(frozen=True, kw_only=True)
class PolicyOptimizer(OptimizerConfig):
    """The optimizer where a policy that is there goes on learning: small steps of AdamW, nothing decayed."""

    lr: float = 2e-5
    warmup_steps: int = 0
    weight_decay: float = 0.0
    muon: bool = False


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Settings of a run; the YAML file's keys."""

    start: str
    """Checkpoint folder of the first policy."""
    iterations: int
    tasks: str = ""
    """A folder with questions in its answers.jsonl (foveate.rl.suite); none for drawn ones of `sampler.families`."""
    prompts: int = 64
    samples: int = 8
    """Of each prompt."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    at_once: int = 16
    """Conversations in flight."""
    partial: float = 0.0
    """Share of the questions whose samples may go on in the next iteration (partial rollouts)."""
    turns: int = 8
    policy_tokens: int = 480
    """Of one conversation; longer ones are cut and leave the loss."""
    image_tokens: int = USUAL.image_tokens
    """Of one conversation's pictures. One whose own picture does not fit is cut, too; a crop that does not fit is not
    shown, which the policy is told. Published models make more of a picture."""
    tokens_per_batch: int = 6000
    """That are computed in one pass of the network, of packed conversations: what they begin with alike counts once."""
    updates: int = 4
    """Steps of the optimizer in an iteration, each on its share of the prompts."""
    seed: int = 0
    length: LengthPenalty = field(default_factory=LengthPenalty)
    bonus: BonusConfig = field(default_factory=BonusConfig)
    pmd: PmdConfig = field(default_factory=PmdConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    optimizer: PolicyOptimizer = field(default_factory=PolicyOptimizer)
    """Its schedule counts iterations."""
    device: str = "cpu"
    """Where the policy plays and learns, as torch names it: cpu, cuda."""
    train_tower: bool = False
    """Whether the tower learns too. One that stays need not look again at what it saw in the rollouts."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    recompute: bool = False
    """Whether the decoder computes its blocks again for the gradient, in a third more time and far less memory."""
    ray: RayConfig = field(default_factory=RayConfig)
    trackers: tuple[Tracker, ...] = ()
    """Where the rows go beside metrics.jsonl."""
    examples: int = 0
    """Questions that are asked before the first iteration and after the last, for the page (foveate.rl.examples)."""

    @property
    def budget(self) -> Budget:
        """Of one conversation; no clock ends one, or the same seeds would not give the same trajectories."""
        return Budget(
            turns=self.turns, policy_tokens=self.policy_tokens, image_tokens=self.image_tokens, seconds=math.inf
        )

    def most_left(self, shares: int) -> int:
        """Questions that each of so many processes may leave to the next iteration. Raises ConfigError below one."""
        left = self.partial * self.prompts / shares
        if 0 < left < 1:
            wanted = math.ceil(1e4 * shares / self.prompts) / 1e4
            raise ConfigError(
                f"partial is {self.partial} of {self.prompts} prompts for {shares} to play, which is less than one "
                f"question each; wanted {wanted:g} or more, or 0"
            )
        return int(left)

    def __post_init__(self) -> None:
        check(self, "", **dict.fromkeys(COUNTS, at_least(1)), partial=BELOW_ONE, examples=NOT_NEGATIVE)
        if unknown := set(self.sampler.families) - set(FAMILIES):
            raise ConfigError(
                f"sampler.families names {', '.join(sorted(unknown))}, wanted some of {', '.join(FAMILIES)}"
            )
        if self.tasks and self.sampler.families != FAMILIES:
            raise ConfigError(
                f"sampler.families is {self.sampler.families!r} and tasks {self.tasks!r}, whose questions say what "
                "families there are; wanted one or the other"
            )
        if self.ray.actors and (self.device == "cpu") != (self.ray.gpus == 0):
            raise ConfigError(
                f"ray.gpus is {self.ray.gpus:g} and device {self.device!r}; wanted as many as each actor shall have "
                "(0.5 where two share one) with a GPU's device, and 0 with cpu"
            )
        self.most_left(max(1, self.ray.actors))
        if self.partial and self.ray.actors and not self.ray.staleness:
            raise ConfigError(
                f"ray.staleness is 0 and partial {self.partial}, whose conversations end with weights an iteration "
                "newer; wanted a ray.staleness of at least 1, or partial 0"
            )
