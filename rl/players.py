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
            yield from (Job(item=item, group=group, seed=seed) for seed in seeds)


class Played(NamedTuple):
    """What came of an iteration's questions."""

    trajectories: list[Trajectory]
    see: SeenImages | None
    """What the tower made of their pictures; None when it learns."""
    age: int = 0
    """Iterations that the policy has learned since the weights that played."""


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

    def __init__(self, stage: Rollouts, config: PolicyConfig, team: Team = ALONE) -> None:
        self.stage, self.config, self.team = stage, config, team

    def play(self, iteration: int, success: Mapping[str, float]) -> Played:
        """See Players."""
        trajectories = list(self.stage.play(jobs_of(self.config, iteration, success, self.team)))
        reasoner, learns = self.stage.reasoner, self.config.train_tower
        reasoner.forget(tower=learns)
        return Played(trajectories, None if learns else reasoner.engine.seen)

    def renew(self, thinker: Thinker) -> None:
        """Nothing: the weights are the thinker's own, or have been copied into it."""


@contextmanager
def players(config: PolicyConfig, thinker: Thinker, team: Team) -> Iterator[Players]:
    """Who plays with this thinker, as the configuration says.

    Raises ConfigError for actors in a team, or when Ray is not installed.
    """
    if config.ray.actors:
        from foveate.rl.ray_players import ray_players

        if team.size > 1:
            raise ConfigError(f"ray.actors is {config.ray.actors} in a team of {team.size}; wanted one or the other")
        with ray_players(config, thinker) as far:
            yield far
        return
    with rollouts(thinker, at_once=config.at_once, temperature=config.temperature, budget=config.budget) as stage:
        yield OwnPlayers(stage, config, team)
