"""Who plays the questions of an iteration: this process, or actors of Ray (foveate.rl.ray_players).

Iteration i draws its questions from the seed and i, so a run that was killed goes on with the questions that it would
have asked, and whoever plays draws its own.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from foveate.errors import ConfigError
from foveate.models.seen import SeenImages
from foveate.models.thinker import Thinker
from foveate.rl.partial import PartialRollouts, partial_rollouts
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.rollout import Job, Rollouts, Trajectory, rollouts
from foveate.rl.sampler import dealt
from foveate.rl.suite import drawn_item
from foveate.rl.team import ALONE, Team


def jobs_of(config: PolicyConfig, iteration: int, success: Mapping[str, float], team: Team = ALONE) -> Iterator[Job]:
    """The questions of an iteration, each as often as it is asked; pictures of the train split, never seen before.

    They are drawn as they are taken. `success` is the rate of each family so far; a team deals the questions out.
    """
    rng = random.Random(f"{config.seed}/{iteration}")
    for group, family in enumerate(dealt(config.sampler, success, config.prompts, iteration)):
        number, seeds = rng.randrange(1 << 40), [rng.randrange(1 << 30) for _ in range(config.samples)]
        if group % team.size == team.rank:
            item = drawn_item(family, 10_000_000 + number, "train", str(config.seed))
            yield from (Job(item=item, group=iteration * config.prompts + group, seed=seed) for seed in seeds)


class Played(NamedTuple):
    """What came of an iteration's questions."""

    trajectories: list[Trajectory]
    see: SeenImages | None
    """What the tower made of their pictures; None when it learns."""
    age: int = 0
    """Iterations that the policy has learned since the oldest weights that played."""


class Players(Protocol):
    """Whoever plays."""

    def play(self, iteration: int, success: Mapping[str, float]) -> Played:
        """Ask the questions of an iteration; `success` is the rate of each family so far."""
        ...

    def renew(self, thinker: Thinker) -> None:
        """Play with these weights from now on."""
        ...


class OwnPlayers:
    """This process, with the thinker that its rollouts have."""

    def __init__(self, stage: Rollouts, partial: PartialRollouts, config: PolicyConfig, team: Team = ALONE) -> None:
        self.stage, self.partial, self.config, self.team = stage, partial, config, team

    def play(self, iteration: int, success: Mapping[str, float]) -> Played:
        """See Players."""
        config, reasoner = self.config, self.stage.reasoner
        jobs = jobs_of(config, iteration, success, self.team)
        last = iteration + 1 == config.iterations
        most_left = 0 if last else int(config.partial * config.prompts / self.team.size)
        trajectories = self.partial.play(jobs, most_left) if config.partial else list(self.stage.play(jobs))
        reasoner.forget(tower=config.train_tower)
        oldest = min((one.job.group // config.prompts for one in trajectories), default=iteration)
        return Played(trajectories, None if config.train_tower else reasoner.engine.seen, iteration - oldest)

    def renew(self, thinker: Thinker) -> None:
        """Nothing: the weights are the thinker's own, or have been copied into it."""


@contextmanager
def own_players(config: PolicyConfig, thinker: Thinker, team: Team) -> Iterator[OwnPlayers]:
    """This process, with kernels for the block."""
    with (
        rollouts(thinker, at_once=config.at_once, budget=config.budget) as stage,
        partial_rollouts(stage) as partial,
    ):
        yield OwnPlayers(stage, partial, config, team)


@contextmanager
def players(config: PolicyConfig, thinker: Thinker, team: Team) -> Iterator[Players]:
    """Who plays with this thinker, as the configuration says.

    Raises ConfigError for actors in a team, or when Ray is not installed.
    """
    if not config.ray.actors:
        with own_players(config, thinker, team) as own:
            yield own
        return
    from foveate.rl.ray_players import ray_players

    if team.size > 1:
        raise ConfigError(f"ray.actors is {config.ray.actors} in a team of {team.size}; wanted one or the other")
    with ray_players(config, thinker) as far:
        yield far
