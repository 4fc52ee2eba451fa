"""Training a reasoning policy on what it does: roll out, reward, step, again.

An iteration asks a number of questions several times each with the current policy, in the graph that is deployed, and
the policy learns from what came of it (foveate.rl.learner).

    foveate train pmd|grpo|rloo --config FILE --out DIR

Iteration i draws its questions from the seed and i, so a run that was killed goes on with the questions that it would
have asked.
"""

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import torch
from tqdm import tqdm

from foveate.models.thinker import Thinker
from foveate.ops import compute_dtype
from foveate.rl.journal import METRICS, Progress, keep_rows, resumed, save_checkpoint
from foveate.rl.learner import OF_FAMILY, Learner, Said
from foveate.rl.page import EXAMPLES, add_examples, write_page
from foveate.rl.policy_config import Objective, PolicyConfig
from foveate.rl.rollout import Job, Trajectory, rollouts
from foveate.rl.sampler import dealt, remembered
from foveate.rl.suite import drawn_item
from foveate.rl.team import ALONE, Team, joined, share_out
from foveate.rl.train import told_to_stop
from foveate.rl.trainable import make_trainable, whole_weights


def jobs_of(config: PolicyConfig, iteration: int, success: Mapping[str, float], team: Team = ALONE) -> Iterator[Job]:
    """The questions of an iteration, each as often as it is asked; pictures of the train split, never seen before.

    They are drawn as they are taken. `success` is the rate of each family so far; a team deals the questions out.
    """
    rng = random.Random(f"{config.seed}/{iteration}")
    for group, family in enumerate(dealt(config.sampler, success, config.prompts)):
        number, seeds = rng.randrange(1 << 40), [rng.randrange(1 << 30) for _ in range(config.samples)]
        if group % team.size == team.rank:
            item = drawn_item(family, 10_000_000 + number, "train", str(config.seed))
            yield from (Job(item=item, group=group, seed=seed) for seed in seeds)


def train_policy(
    objective: Objective, config: PolicyConfig, out: Path, *, resume: bool = False, max_minutes: float | None = None
) -> int:
    """Run the iterations; returns how many are done. `out` gets metrics.jsonl and a checkpoint after each.

    Processes that torchrun started share the questions and the weights that learn (foveate.rl.team).
    """
    out.mkdir(parents=True, exist_ok=True)
    with joined("cpu") as team, told_to_stop() as told:
        learning = Thinker.from_pretrained(config.start, dtype=compute_dtype())
        make_trainable(learning, config.lora, tower=config.train_tower)
        playing = learning if team.size == 1 else deepcopy(learning)
        learner = Learner(objective, config, share_out(Said(learning), team), team)
        done, _ = resumed(out, learner.optimizer, team) if resume else Progress()
        rows, _ = (keep_rows(out / name, "iteration", done) if team.leads else [] for name in (METRICS, EXAMPLES))
        success = _success_so_far(rows)
        started, spent = time.monotonic(), rows[-1]["seconds"] if rows else 0.0
        bar = tqdm(total=config.iterations, initial=done, dynamic_ncols=True, unit="iteration", disable=not team.leads)
        with rollouts(playing, at_once=config.at_once, temperature=config.temperature, budget=config.budget) as stage:
            while done < config.iterations and not team.most(told.is_set()):
                learner.give(playing)
                trajectories = list(stage.play(jobs_of(config, done, success, team)))
                stage.reasoner.forget(tower=config.train_tower)
                see = None if config.train_tower else stage.reasoner.engine.seen
                row = learner.learn(done, trajectories, see)
                success = remembered(success, _by_family(row))
                done += 1
                row |= {"iteration": done, "seconds": round(spent + time.monotonic() - started, 1)}
                learner.give(playing)
                if team.leads:  # before the checkpoint: what a kill in between leaves is dropped and comes again
                    _write(out, row, trajectories, playing)
                    bar.set_postfix({key: f"{value:.3f}" for key, value in row.items()})
                save_checkpoint(out, learner.optimizer, Progress(done), team)
                bar.update()
                if team.most(max_minutes is not None and time.monotonic() - started > 60 * max_minutes):
                    break
        bar.close()
    return done


def _write(out: Path, row: Mapping[str, float], trajectories: Sequence[Trajectory], thinker: Thinker) -> None:
    """What an iteration leaves beside the checkpoint."""
    add_examples(out, int(row["iteration"]), trajectories, thinker.processor.codec)
    with (out / METRICS).open("a") as log:
        log.write(json.dumps(row) + "\n")
    thinker.save_pretrained(out, dtype=torch.bfloat16, weights=whole_weights(thinker))
    write_page(out)


def _by_family(row: Mapping[str, float]) -> dict[str, float]:
    return {key.removeprefix(OF_FAMILY): value for key, value in row.items() if key.startswith(OF_FAMILY)}


def _success_so_far(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the rows of the iterations that are done remember of each family."""
    success: dict[str, float] = {}
    for row in rows:
        success = remembered(success, _by_family(row))
    return success
