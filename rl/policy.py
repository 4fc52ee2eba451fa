"""Training a reasoning policy on what it does: roll out, reward, step, again.

An iteration asks a number of questions several times each with the current policy, in the graph that is deployed. A
sample's reward is 1 for a right answer, and what the length penalty adds. Conversations that a budget cut leave the
loss and their group's statistics; so do groups of one. The optimizer's moments are reset every iteration (Kimi k1.5).

    foveate train pmd|grpo|rloo --config FILE --out DIR

Iteration i draws its questions from the seed and i, so a run that was killed goes on with the questions that it would
have asked. Shape letters: S tokens that the policy wrote, B samples.
"""

import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from foveate.agent.budget import Budget
from foveate.models.branches import See
from foveate.models.thinker import Thinker
from foveate.models.transcript import pack
from foveate.ops import compute_dtype
from foveate.rl.grpo import GrpoConfig, grpo_loss, grpo_targets, rloo_loss, rloo_targets
from foveate.rl.journal import METRICS, SKIPPED, Progress, keep_rows, load_checkpoint, save_checkpoint
from foveate.rl.length import LengthPenalty, length_rewards
from foveate.rl.logprobs import conversation_of, written_logprobs
from foveate.rl.optimizer import MasterOptimizer, OptimizerConfig
from foveate.rl.page import EXAMPLES, add_examples, write_page
from foveate.rl.pmd import PmdConfig, pmd_loss, pmd_targets
from foveate.rl.rollout import Job, Trajectory, rollouts
from foveate.rl.sampler import SamplerConfig, dealt, rates, remembered
from foveate.rl.suite import drawn_item
from foveate.rl.tasks.scene import FAMILIES
from foveate.rl.train import told_to_stop
from foveate.rl.trainable import LoraConfig, make_trainable, whole_weights

OF_FAMILY = "accuracy_"
"""Before a family's name in a row of metrics.jsonl."""
Objective = Literal["pmd", "grpo", "rloo"]
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Settings of a run; the YAML file's keys."""

    start: str
    """Checkpoint folder of the first policy."""
    iterations: int
    prompts: int = 64
    samples: int = 8
    """Of each prompt."""
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(families=FAMILIES))
    at_once: int = 16
    """Conversations in flight."""
    temperature: float = 1.0
    turns: int = 8
    policy_tokens: int = 480
    """Of one conversation; longer ones are cut and leave the loss."""
    tokens_per_batch: int = 6000
    """Of packed conversations in one pass of the network."""
    updates: int = 4
    """Steps of the optimizer in an iteration, each on its share of the prompts."""
    seed: int = 0
    length: LengthPenalty = field(default_factory=LengthPenalty)
    pmd: PmdConfig = field(default_factory=PmdConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=2e-5, muon=False, weight_decay=0.0))
    train_tower: bool = False
    """Whether the tower learns too. One that stays need not look again at what it saw in the rollouts."""
    lora: LoraConfig = field(default_factory=LoraConfig)

    @property
    def budget(self) -> Budget:
        """Of one conversation."""
        return Budget(turns=self.turns, policy_tokens=self.policy_tokens)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """A trajectory with what it is worth."""

    trajectory: Trajectory
    reward: float
    target: float


def jobs_of(config: PolicyConfig, iteration: int, success: Mapping[str, float]) -> Iterator[Job]:
    """The questions of an iteration, each as often as it is asked; pictures of the train split, never seen before.

    They are drawn as they are taken. `success` is the rate of each family so far.
    """
    rng = random.Random(f"{config.seed}/{iteration}")
    for group, family in enumerate(dealt(config.sampler, success, config.prompts)):
        item = drawn_item(family, 10_000_000 + rng.randrange(1 << 40), "train", str(config.seed))
        for _ in range(config.samples):
            yield Job(item=item, group=group, seed=rng.randrange(1 << 30))


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
    rewards_B = right_B.float() + weight * length_rewards(lengths_B, right_B, groups_B)
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


def batches(samples: Sequence[Sampled], most_tokens: int) -> Iterator[list[Sampled]]:
    """Samples in their order, as many together as fit."""
    batch: list[Sampled] = []
    tokens = 0
    for sample in samples:
        count = len(sample.trajectory.transcript)
        if batch and tokens + count > most_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(sample)
        tokens += count
    if batch:
        yield batch


def gradient(
    thinker: Thinker, samples: Sequence[Sampled], loss: Loss, most_tokens: int, see: See | None = None
) -> dict[str, float]:
    """Add the gradient of the mean loss of these samples, batch by batch; how far the policy has moved from them."""
    drift, tokens = 0.0, 0
    for batch in batches(samples, most_tokens):
        transcript = pack([sample.trajectory.transcript for sample in batch])
        sampled_S = torch.cat([sample.trajectory.sampled_S for sample in batch])
        logprobs_S = written_logprobs(thinker, transcript, see)
        targets_B = torch.tensor([sample.target for sample in batch])
        value = loss(logprobs_S, sampled_S, conversation_of(transcript), targets_B)
        (value * len(batch) / len(samples)).backward()
        drift += float((sampled_S - logprobs_S.detach()).sum())
        tokens += len(sampled_S)
    return {"kl": drift / max(1, tokens)}


def train_policy(
    objective: Objective, config: PolicyConfig, out: Path, *, resume: bool = False, max_minutes: float | None = None
) -> int:
    """Run the iterations; returns how many are done. `out` gets metrics.jsonl and a checkpoint after each."""
    out.mkdir(parents=True, exist_ok=True)
    thinker = Thinker.from_pretrained(config.start, dtype=compute_dtype())
    make_trainable(thinker, config.lora, tower=config.train_tower)
    optimizer = MasterOptimizer(thinker, config.optimizer)
    done, _ = load_checkpoint(out, optimizer) if resume else Progress()
    rows = keep_rows(out / METRICS, "iteration", done)
    keep_rows(out / EXAMPLES, "iteration", done)
    success = _success_so_far(rows)
    spent = rows[-1]["seconds"] if rows else 0.0
    started = time.monotonic()
    bar = tqdm(total=config.iterations, initial=done, dynamic_ncols=True, unit="iteration")
    with (
        told_to_stop() as told,
        (out / METRICS).open("a") as log,
        rollouts(thinker, at_once=config.at_once, temperature=config.temperature, budget=config.budget) as playing,
    ):
        while done < config.iterations and not told.is_set():
            trajectories = list(playing.play(jobs_of(config, done, success)))
            playing.reasoner.forget(tower=config.train_tower)
            see = None if config.train_tower else playing.reasoner.engine.seen
            row = learn(objective, config, done, thinker, optimizer, trajectories, see)
            success = remembered(success, _by_family(row))
            done += 1
            add_examples(out, done, trajectories, thinker.processor.codec)
            seconds = round(spent + time.monotonic() - started, 1)
            log.write(json.dumps(row | {"iteration": done, "seconds": seconds}) + "\n")
            log.flush()
            bar.set_postfix({key: f"{value:.3f}" for key, value in row.items()})
            bar.update()
            save_checkpoint(out, optimizer, Progress(done))
            thinker.save_pretrained(out, dtype=torch.bfloat16, weights=whole_weights(thinker))
            write_page(out)
            if max_minutes is not None and time.monotonic() - started > 60 * max_minutes:
                break
    bar.close()
    return done


def learn(
    objective: Objective,
    config: PolicyConfig,
    iteration: int,
    thinker: Thinker,
    optimizer: MasterOptimizer,
    trajectories: Sequence[Trajectory],
    see: See | None = None,
) -> dict[str, float]:
    """Step on the trajectories of an iteration; returns its numbers."""
    samples = rewarded(trajectories, objective, config, config.length.at(iteration))
    optimizer.reset()
    rows = []
    for share in shares(samples, config.updates):
        row = gradient(thinker, share, loss_of(objective, config), config.tokens_per_batch, see)
        rows.append(row | {"grad_norm": optimizer.step(config.optimizer.lr)})
    norms = [row["grad_norm"] for row in rows if math.isfinite(row["grad_norm"])]
    return {
        "accuracy": fmean(trajectory.right for trajectory in trajectories),
        "reward": fmean([sample.reward for sample in samples] or [0.0]),
        "policy_tokens": fmean(len(trajectory.sampled_S) for trajectory in trajectories),
        "tool_calls": fmean(trajectory.tool_calls for trajectory in trajectories),
        "cut": fmean(not trajectory.is_whole for trajectory in trajectories),
        "kl": fmean([row["kl"] for row in rows] or [0.0]),
        "grad_norm": fmean(norms or [0.0]),
        **({SKIPPED: float(len(rows) - len(norms))} if len(norms) < len(rows) else {}),
        **{f"{OF_FAMILY}{name}": rate for name, rate in _rates(trajectories).items()},
    }


def _rates(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    return rates([one.job.item.family for one in trajectories], [one.right for one in trajectories])


def _by_family(row: Mapping[str, float]) -> dict[str, float]:
    return {key.removeprefix(OF_FAMILY): value for key, value in row.items() if key.startswith(OF_FAMILY)}


def _success_so_far(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the rows of the iterations that are done remember of each family."""
    success: dict[str, float] = {}
    for row in rows:
        success = remembered(success, _by_family(row))
    return success


def shares(samples: Sequence[Sampled], count: int) -> list[list[Sampled]]:
    """Samples dealt out by prompt, so that each update sees whole groups."""
    dealt = [[sample for sample in samples if sample.trajectory.job.group % count == which] for which in range(count)]
    return [share for share in dealt if share]
