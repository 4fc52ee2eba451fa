"""A policy that steps on what it did: rewards, targets, the loss of whole groups, the optimizer.

A sample's reward is 1 for a right answer, and what length and bonus add. Conversations that a budget cut or that failed
leave the loss and their group's statistics; so do groups of one. The optimizer's moments are reset every iteration
(Kimi k1.5).

Deviation: groups whose samples are all worth the same are not computed. Their gradient is zero at the policy that
sampled; for PMD, the pull back to that policy in later updates of the iteration is lost.

Shape letters: S tokens that the policy wrote, B samples.
"""

import logging
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foveate.errors import ModelError
from foveate.models.prefix import Key, common_length, token_keys
from foveate.models.seen import SeenImages
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript, pack
from foveate.rl.bonus import bonus
from foveate.rl.grpo import grpo_loss, grpo_targets, rloo_loss, rloo_targets
from foveate.rl.journal import SKIPPED, finite
from foveate.rl.length import length_rewards
from foveate.rl.logprobs import conversation_of, written_logprobs
from foveate.rl.optimizer import MasterOptimizer, learn_from, learning_rate
from foveate.rl.pmd import pmd_loss, pmd_targets
from foveate.rl.policy_config import Objective, PolicyConfig
from foveate.rl.preferences import idle
from foveate.rl.rollout import Trajectory
from foveate.rl.team import ALONE, Team, each_whole

_LOGGER = logging.getLogger(__name__)
OF_FAMILY, TOKENS_OF_FAMILY = "accuracy_", "tokens_"
"""Before a family's name in a row of metrics.jsonl."""
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """A trajectory with what it is worth."""

    trajectory: Trajectory
    reward: float
    target: float


Size = Callable[[Sequence[Sampled]], int]
"""Of samples."""


def rewarded(
    trajectories: Sequence[Trajectory], objective: Objective, config: PolicyConfig, weight: float
) -> list[Sampled]:
    """What the loss sees: whole trajectories of groups that have at least two, with rewards and targets."""
    whole = [trajectory for trajectory in trajectories if trajectory.is_whole]
    sizes = Counter(trajectory.job.group for trajectory in whole)
    kept = [trajectory for trajectory in whole if sizes[trajectory.job.group] > 1]
    if not kept:
        return []
    groups_B = torch.tensor([trajectory.job.group for trajectory in kept]).unique(return_inverse=True)[1]
    right_B = torch.tensor([trajectory.right for trajectory in kept])
    lengths_B = torch.tensor([len(trajectory.sampled_S) for trajectory in kept])
    bonus_B = torch.tensor([bonus(trajectory, config.bonus) for trajectory in kept])
    rewards_B = (
        right_B.float() + bonus_B + weight * length_rewards(lengths_B, right_B, groups_B, config.length.least_spread)
    )
    if objective == "pmd":
        targets_B = pmd_targets(rewards_B, groups_B, config.pmd)
    elif objective == "grpo":
        targets_B = grpo_targets(rewards_B, groups_B, config.grpo)
    else:
        targets_B = rloo_targets(rewards_B, groups_B)
    rows = zip(kept, rewards_B.tolist(), targets_B.tolist(), strict=True)
    return [Sampled(trajectory=trajectory, reward=reward, target=target) for trajectory, reward, target in rows]


def loss_of(objective: Objective, config: PolicyConfig) -> Loss:
    """The objective as a function of log-probabilities [S], those at sampling [S], samples [S] and targets [B]."""
    if objective == "pmd":
        return partial(pmd_loss, config=config.pmd)
    return partial(grpo_loss, config=config.grpo) if objective == "grpo" else rloo_loss


def size_of(objective: Objective, config: PolicyConfig) -> Size:
    """What an objective's mean is over: samples, or the tokens that the policy wrote."""
    if objective == "grpo" or (objective == "pmd" and config.pmd.level == "token"):
        return lambda samples: sum(len(sample.trajectory.sampled_S) for sample in samples)
    return len


def batches(samples: Sequence[Sampled], most_tokens: int) -> Iterator[list[Sampled]]:
    """Samples in their order, as many together as fit: of tokens that are computed (foveate.models.branches)."""
    batch, beside, tokens = list[Sampled](), list[list[Key]](), 0
    for sample in samples:
        keys = token_keys(sample.trajectory.transcript)
        shared = max((common_length(keys, others) for others in beside), default=0)
        if batch and tokens + len(keys) - shared > most_tokens:
            yield batch
            batch, beside, tokens, shared = [], [], 0, 0
        batch.append(sample)
        beside.append(keys)
        tokens += len(keys) - shared
    if batch:
        yield batch


class Distance(NamedTuple):
    """Between what a policy says of tokens and what was said of them when they were sampled, a token."""

    kl: float
    """Mean of exp(d) - 1 - d, d being the log-probability now less that at sampling: an estimate of KL(sampling policy
    || policy) that is never negative and, where d is small, half its square (k3, http://joschu.net/blog/kl-approx.html).
    """
    mismatch: float
    """Mean absolute difference. Of a policy that has not stepped yet: how far the trainer's numbers are from the
    sampler's, and its weights from those that played."""


class Said(nn.Module):
    """What a policy says of what it wrote as the forward pass of a module, where a team's weights come together."""

    def __init__(self, thinker: Thinker) -> None:
        super().__init__()
        self.thinker = thinker

    def forward(self, transcript: Transcript, see: SeenImages | None) -> Tensor:
        """See `written_logprobs`."""
        return written_logprobs(self.thinker, transcript, see)


def gradient(
    said: nn.Module,
    samples: Sequence[Sampled],
    loss: Loss,
    most_tokens: int,
    *,
    size: Size = len,
    see: SeenImages | None = None,
    team: Team = ALONE,
    idle: Transcript | None = None,
) -> Distance:
    """Add the gradient of the mean loss of a team's samples, batch by batch; how far the policy is from them.

    The mean is over what `size` counts, samples or tokens, and over samples whose group is without signal too, though
    the network does not see those: at the policy that sampled, their gradient is zero. All of a team take as many
    passes: one that has no sample left goes over `idle`, which then counts nothing.
    """
    own, total = list(batches(with_signal(samples), most_tokens)), team.total(size(samples))
    moved, apart, tokens = 0.0, 0.0, 0
    for which in range(int(team.most(len(own)))):
        if which >= len(own):
            assert idle is not None
            (said(idle, see).sum() * 0.0).backward()
            continue
        batch = own[which]
        transcript = pack([sample.trajectory.transcript for sample in batch])
        logprobs_S = said(transcript, see)
        device = logprobs_S.device
        sampled_S = torch.cat([sample.trajectory.sampled_S for sample in batch]).to(device)
        targets_B = torch.tensor([sample.target for sample in batch], device=device)
        value = loss(logprobs_S, sampled_S, conversation_of(transcript).to(device), targets_B)
        learn_from(value, size(batch) * team.size / total)  # a team's gradients are averaged
        differences_S = logprobs_S.detach() - sampled_S
        moved += float((differences_S.expm1() - differences_S).sum())
        apart += float(differences_S.abs().sum())
        tokens += len(sampled_S)
    count = max(1.0, team.total(tokens))
    return Distance(kl=team.total(moved) / count, mismatch=team.total(apart) / count)


def shares(samples: Sequence[Sampled], count: int, order: Sequence[int]) -> list[list[Sampled]]:
    """Samples dealt out by prompt, so that each update sees whole groups; some may get none.

    `order` shuffles the prompts of an iteration, whose families come by turns: dealt out as they come, an update would
    see some families and another the rest.
    """
    turns = [order[sample.trajectory.job.group % len(order)] % count for sample in samples]
    return [[sample for sample, turn in zip(samples, turns, strict=True) if turn == which] for which in range(count)]


def with_signal(samples: Sequence[Sampled]) -> list[Sampled]:
    """The samples of groups that say anything: not all of one reward."""
    rewards = defaultdict[int, set[float]](set)
    for sample in samples:
        rewards[sample.trajectory.job.group].add(sample.reward)
    return [sample for sample in samples if len(rewards[sample.trajectory.job.group]) > 1]


class Learner:
    """A policy that steps on what was played."""

    def __init__(self, objective: Objective, config: PolicyConfig, said: nn.Module, team: Team = ALONE) -> None:
        self.objective, self.config, self.said, self.team = objective, config, said, team
        self.optimizer = MasterOptimizer(said, config.optimizer)

    def learn(
        self, iteration: int, trajectories: Sequence[Trajectory], see: SeenImages | None = None
    ) -> dict[str, float]:
        """Step on the trajectories of an iteration; returns its numbers.

        Raises ModelError when all of them failed: whoever plays so will play no better.
        """
        config, team = self.config, self.team
        _refuse_failed(trajectories, team)
        samples = rewarded(trajectories, self.objective, config, config.length.at(iteration))
        if not team.total(len(samples)):
            _LOGGER.warning(
                "iteration %d learns nothing: no question has two conversations that came to their own end; most turns "
                "are %d, policy_tokens %d and image_tokens %d",
                iteration, config.turns, config.policy_tokens, config.image_tokens,
            )  # fmt: skip
        order = random.Random(f"{config.seed}/{iteration}/order").sample(range(config.prompts), config.prompts)
        lr = learning_rate(config.optimizer, iteration, config.iterations)
        step = partial(
            gradient, self.said, loss=loss_of(self.objective, config), most_tokens=config.tokens_per_batch,
            size=size_of(self.objective, config), see=see, team=team, idle=self._idle() if team.size > 1 else None,
        )  # fmt: skip
        distances, norms = list[Distance](), list[float]()
        for share in shares(samples, config.updates, order):
            if team.total(len(with_signal(share))):
                distances.append(step(samples=share))
                norms.append(self.optimizer.step(lr))
        self.optimizer.reset()  # what is saved holds no moments that the next iteration would drop
        stepped = [number for number, norm in enumerate(norms) if math.isfinite(norm)]
        none = math.nan if norms else 0.0  # of steps that were all skipped nothing is known
        learned = {
            "kl": fmean([distances[number].kl for number in stepped] or [none]),
            "mismatch": distances[0].mismatch if distances else math.nan,
            "grad_norm": fmean([norms[number] for number in stepped] or [none]),
            "lr": lr,
            **({SKIPPED: float(len(norms) - len(stepped))} if len(stepped) < len(norms) else {}),
        }
        return team.means(_played(trajectories, samples)) | finite(learned) | team.means(_by_family(trajectories))

    def _idle(self) -> Transcript:
        """A conversation for a process of a team that has none left; with a picture where the tower learns."""
        thinker: Any = self.said.get_submodule("thinker")
        return idle(thinker.processor, shown=self.config.train_tower)

    def give(self, thinker: Thinker) -> None:
        """Bring what was learned into the copy that plays, where there is one."""
        if self.team.size > 1:
            playing = dict(thinker.named_parameters())
            with torch.no_grad():
                for name, learned in each_whole(self.said):
                    playing[name.removeprefix("thinker.")].copy_(learned)


def _refuse_failed(trajectories: Sequence[Trajectory], team: Team) -> None:
    reasons = [trajectory.reason for trajectory in trajectories if trajectory.has_failed]
    count = team.total(len(reasons))
    if count and count == team.total(len(trajectories)):
        told = f", the first one: {reasons[0]}" if reasons else ""  # a process of a team may have had none
        raise ModelError(f"all {count:.0f} conversations of the iteration failed{told}")


def _played(trajectories: Sequence[Trajectory], samples: Sequence[Sampled]) -> dict[str, tuple[float, int]]:
    """What a row says of an iteration's conversations: sums, and of how many."""
    return {
        "accuracy": _of(trajectory.right for trajectory in trajectories),
        "reward": _of(sample.reward for sample in samples),
        "policy_tokens": _of(len(trajectory.sampled_S) for trajectory in trajectories),
        "tool_calls": _of(trajectory.tool_calls for trajectory in trajectories),
        "cut": _of(not (trajectory.is_whole or trajectory.has_failed) for trajectory in trajectories),
        "failed": _of(trajectory.has_failed for trajectory in trajectories),
    }


def _by_family(trajectories: Sequence[Trajectory]) -> dict[str, tuple[float, int]]:
    """How many were right, how many tokens they wrote, and how many there are, of each family."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in trajectories:
        found[f"{OF_FAMILY}{one.job.item.family}"].append(one.right)
        found[f"{TOKENS_OF_FAMILY}{one.job.item.family}"].append(len(one.sampled_S))
    return {name: _of(some) for name, some in found.items()}


def _of(numbers: Iterable[float]) -> tuple[float, int]:
    """The sum of some numbers and how many they are."""
    some = [float(number) for number in numbers]
    return math.fsum(some), len(some)
