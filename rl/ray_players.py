"""Rollouts in actors of Ray: on this machine, or wherever the cluster of RAY_ADDRESS has room.

An actor has a thinker and a pool of sandboxes of its own, draws its share of an iteration's questions, and sends back
what was said and what its tower made of the pictures; weights go the other way after each iteration. With a staleness
of k the questions of the next k iterations are played while the policy still learns: its weights are then up to k
iterations newer than those that played, and each row says how old they were (`age`). Partial rollouts take one of
these iterations: what waits for the next one has weights that are one older.
"""

import math
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from foveate.errors import ConfigError, ModelError, first_line
from foveate.extras import from_extra
from foveate.models.seen import SeenImages
from foveate.models.thinker import Thinker
from foveate.models.transcript import without_patches
from foveate.rl.players import Played, own_players
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.questions import questions_of
from foveate.rl.rollout import Trajectory
from foveate.rl.team import Team
from foveate.rl.trainable import open_policy, whole_weights

Sent = tuple[list[Trajectory], dict[str, Tensor], int]
"""Trajectories, what the tower made of their pictures by key, if it stays as it is, and how old the oldest are."""


class Player:
    """What runs in an actor."""

    def __init__(self, config: PolicyConfig, share: Team) -> None:
        self.thinker = open_policy(config.start, torch.device(config.device).type)  # of GPUs it sees its own alone
        self.config = config
        self.stack = ExitStack()
        self.players = self.stack.enter_context(own_players(config, self.thinker, share, questions_of(config)))

    def play(self, iteration: int, success: Mapping[str, float]) -> Sent:
        """This actor's share of an iteration."""
        trajectories, see, age = self.players.play(iteration, success)
        light = [replace(one, transcript=without_patches(one.transcript)) for one in trajectories]
        return (trajectories, {}, age) if see is None else (light, dict(see.tokens), age)

    @torch.no_grad()
    def renew(self, weights: Mapping[str, Tensor]) -> None:
        """Play with these from now on."""
        for name, parameter in self.thinker.named_parameters():
            parameter.copy_(weights[name])
        self.players.stage.reasoner.forget(tower=self.config.train_tower)


@dataclass(kw_only=True)
class RayPlayers:
    """Actors that share the questions of each iteration; each does what it is told in its order."""

    ray: Any
    actors: list[Any]
    config: PolicyConfig
    thinker: Thinker
    """Whose tower the features belong to."""
    learned: int = 0
    renewals: list[Any] = field(default_factory=list)
    flights: dict[int, list[Any]] = field(default_factory=dict)
    """Of each iteration that is being played: that the actors have its weights, and what they send."""
    learned_by: dict[int, int] = field(default_factory=dict)
    """Of each iteration that has begun: how many the policy had learned then, since this run began."""

    def play(self, iteration: int, success: Mapping[str, float]) -> Played:
        """See Players; iterations that may be played ahead are begun."""
        ahead = self.config.ray.staleness - (self.config.partial > 0)
        for number in range(iteration, min(iteration + ahead + 1, self.config.iterations)):
            if number not in self.flights:
                sending = [actor.play.remote(number, dict(success)) for actor in self.actors]
                self.flights[number] = [*self.renewals, *sending]
                self.learned_by[number] = self.learned
        sent: list[Sent] = self._got(self.flights.pop(iteration))[-len(self.actors) :]
        trajectories = [trajectory for part, _, _ in sent for trajectory in part]
        trajectories.sort(key=lambda trajectory: trajectory.job.group)
        age = self.learned - self.learned_by[iteration - max(since for _, _, since in sent)]
        return Played(trajectories, self._features(sent), age)

    def renew(self, thinker: Thinker) -> None:
        """See Players; what has been begun ends with the weights before."""
        weights = self.ray.put({name: weight.cpu() for name, weight in whole_weights(thinker).items()})
        self.renewals = [actor.renew.remote(weights) for actor in self.actors]
        self.learned += 1

    def _features(self, sent: list[Sent]) -> SeenImages | None:
        if self.config.train_tower:
            return None
        see = SeenImages(self.thinker, room_bytes=math.inf)
        for _, tokens, _ in sent:
            see.tokens.update(tokens)
        return see

    def _got(self, begun: list[Any]) -> list[Any]:
        try:
            return list(self.ray.get(begun))
        except self.ray.exceptions.RayTaskError as error:  # what an actor raised, which --resume would raise again
            raise error.cause from error
        except self.ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(f"an actor of Ray is lost ({reason}); go on with --resume") from error


@contextmanager
def cluster(**settings: Any) -> Iterator[Any]:
    """The package ray with the cluster that is there, or with one for the block that `settings` go to.

    Raises ConfigError when it is not installed, or when there is no cluster where RAY_ADDRESS says.
    """
    with from_extra("ray", "ray, which ray.actors needs,"):
        import ray
    if ray.is_initialized():
        yield ray
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(include_dashboard=False, log_to_driver=False, **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = os.environ.get("RAY_ADDRESS", "this machine")
        raise ConfigError(f"no cluster of Ray at {where}: {first_line(error)}; see RAY_ADDRESS") from error
    signal.signal(signal.SIGTERM, before)  # Ray's would end the run before it has saved what it has
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def ray_players(config: PolicyConfig, thinker: Thinker) -> Iterator[RayPlayers]:
    """Actors for the block. Raises ConfigError when Ray is not installed, or its cluster has not as many GPUs."""
    with cluster() as ray:
        count, gpus = config.ray.actors, config.ray.gpus
        there = ray.cluster_resources().get("GPU", 0.0)
        shares = int(1 / gpus) if 0 < gpus < 1 else 0  # actors on one GPU, of which no part is another GPU's
        if gpus and (count > shares * there if shares else count * gpus > there):  # they would be waited for
            raise ConfigError(
                f"{count} actors want {gpus:g} GPUs each, and Ray has {there:g}; set ray.gpus or ray.actors"
            )
        actor = ray.remote(num_gpus=gpus)(Player)
        actors = [actor.remote(config, Team(rank, count)) for rank in range(count)]
        try:
            yield RayPlayers(ray=ray, actors=actors, config=config, thinker=thinker)
        finally:
            for actor in actors:
                ray.kill(actor)
