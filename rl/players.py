"""Who plays the questions of an iteration: this process, or actors of Ray (foveate.rl.ray_players).

Iteration i draws its questions from the seed and i, so a run that was killed goes on with the questions that it would
have asked, and whoever plays draws its own.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, Protocol

from foveate.errors import ConfigError
from foveate.models.seen import SeenImages
from foveate.models.thinker import Thinker
from foveate.models.transcript import without_patches
from foveate.rl.partial import PartialRollouts, partial_rollouts
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.questions import Questions, Turn, questions_of
from foveate.rl.rollout import Job, Rollouts, Trajectory, rollouts
from foveate.rl.sampler import dealt
from foveate.rl.team import ALONE, Team


def jobs_of(
    config: PolicyConfig,
    iteration: int,
    success: Mapping[str, float],
    team: Team = ALONE,
    questions: Questions | None = None,
) -> Iterator[Job]:
    """The questions of an iteration, each as often as it is asked.

    They are drawn as they are taken. `success` is the rate of each family so far; a team deals the questions out.
    """
    questions = questions or questions_of(config)
    sampler = replace(config.sampler, families=questions.families)
    rng, first = random.Random(f"{config.seed}/{iteration}"), iteration * config.prompts
    places = Counter[str]()  # of each family, as if each iteration were of one alone: no place comes twice
    for group, family in enumerate(dealt(sampler, success, config.prompts, iteration), start=first):
        number, seeds = rng.randrange(1 << 40), [rng.randrange(1 << 30) for _ in range(config.samples)]
        if (group - first) % team.size == team.rank:
            item = questions.item(Turn(family, first + places[family], number))
            yield from (Job(item=item, group=group, seed=seed) for seed in seeds)
        places[family] += 1


class Played(NamedTuple):
    """What came of an iteration's questions."""

    trajectories: list[Trajectory]
    see: SeenImages | None
    """What the tower made of their pictures; None when it learns, and each has its pixels."""
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

    def __init__(
        self, stage: Rollouts, partial: PartialRollouts, config: PolicyConfig, team: Team, questions: Questions
    ) -> None:
        self.stage, self.partial, self.config, self.team, self.questions = stage, partial, config, team, questions
        self.most_left = config.most_left(team.size)

    def play(self, iteration: int, success: Mapping[str, float]) -> Played:
        """See Players."""
        config = self.config
        jobs = jobs_of(config, iteration, success, self.team, self.questions)
        if config.partial:
            last = iteration + 1 == config.iterations
            trajectories = self.partial.play(jobs, 0 if last else self.most_left)
        else:
            trajectories = [self._light(one) for one in self.stage.play(jobs)]
        see = None if config.train_tower else self._taken(trajectories)
        self.stage.reasoner.forget(tower=config.train_tower)
        oldest = min((one.job.group // config.prompts for one in trajectories), default=iteration)
        return Played(trajectories, see, iteration - oldest)

    def _light(self, one: Trajectory) -> Trajectory:
        """A trajectory without the pixels that the tower, which stays as it is, has seen: those are most of it."""
        seen = self.stage.reasoner.engine.seen.tokens
        if self.config.train_tower or not all(image.key in seen for image in one.transcript.images):
            return one
        return replace(one, transcript=without_patches(one.transcript))

    def _taken(self, trajectories: Sequence[Trajectory]) -> SeenImages:
        """What the tower made of their pictures; the rollouts keep only that of questions that go on."""
        seen, taken = self.stage.reasoner.engine.seen, SeenImages(self.stage.reasoner.thinker, room_bytes=math.inf)
        waiting = (one for some in self.partial.ended.values() for one in some)
        keys, keep = (
            {image.key for one in some for image in one.transcript.images} for some in (trajectories, waiting)
        )
        late = [image for one in trajectories for image in one.transcript.images if image.key not in seen.tokens]
        if late:  # whose conversation ended after its picture had gone with another's
            seen(late)
        taken.tokens.update(seen.take(keys, keep))
        return taken

    def renew(self, thinker: Thinker) -> None:
        """Nothing: the weights are the thinker's own, or have been copied into it."""


@contextmanager
def own_players(config: PolicyConfig, thinker: Thinker, team: Team, questions: Questions) -> Iterator[OwnPlayers]:
    """This process, with kernels for the block."""
    with (
        rollouts(thinker, at_once=config.at_once, budget=config.budget, name=config.start) as stage,
        partial_rollouts(stage) as partial,
    ):
        stage.reasoner.engine.seen.room_bytes = math.inf  # all of an iteration, which the policy learns from
        yield OwnPlayers(stage, partial, config, team, questions)


@contextmanager
def players(
    config: PolicyConfig, thinker: Thinker, team: Team, questions: Questions | None = None
) -> Iterator[Players]:
    """Who plays with this thinker, as the configuration says; `questions` are those of it, if they are open already.

    Raises ConfigError for actors in a team, or when Ray is not installed.
    """
    if not config.ray.actors:
        with own_players(config, thinker, team, questions or questions_of(config)) as own:
            yield own
        return
    from foveate.rl.ray_players import ray_players

    if team.size > 1:
        raise ConfigError(f"ray.actors is {config.ray.actors} in a team of {team.size}; wanted one or the other")
    with ray_players(config, thinker) as far:
        yield far
