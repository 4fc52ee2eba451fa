"""Training a reasoning policy on what it does: roll out, reward, step, again.

An iteration asks a number of questions several times each with the current policy, in the graph that is deployed, and
the policy learns from what came of it (foveate.rl.learner).

    foveate train pmd|grpo|rloo --config FILE --out DIR
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

from tqdm import tqdm

from foveate.errors import ConfigError
from foveate.models.device import device_of, put_on
from foveate.models.thinker import Thinker
from foveate.rl.ending import Clock, told_to_stop
from foveate.rl.journal import METRICS, Progress, add_row, begun, keep_rows, save_checkpoint
from foveate.rl.learner import OF_FAMILY, Learner, Said
from foveate.rl.page import EXAMPLES, add_examples, write_page
from foveate.rl.players import players
from foveate.rl.policy_config import Objective, PolicyConfig
from foveate.rl.questions import questions_of
from foveate.rl.rollout import Trajectory
from foveate.rl.sampler import remembered
from foveate.rl.settings import refuse_start, settings_of
from foveate.rl.team import joined, share_out
from foveate.rl.trackers import tracked
from foveate.rl.trainable import export, make_trainable, open_policy
from foveate.rl.writing import made


def train_policy(
    objective: Objective, config: PolicyConfig, out: Path, *, resume: bool = False, max_minutes: float | None = None
) -> int:
    """Run the iterations; returns how many are done. `out` gets metrics.jsonl and a checkpoint after each.

    Processes that torchrun started share the questions and the weights that learn (foveate.rl.team).
    """
    if config.samples < 2:
        raise ConfigError(
            f"samples is {config.samples}, wanted at least 2: those of a prompt are compared with each other"
        )
    settings = settings_of(objective, config)
    refuse_start(settings, out)
    questions = questions_of(config)
    made(out)
    with joined(config.device) as team, told_to_stop() as told:
        learning = open_policy(config.start, config.device, waits=team.size > 1)
        make_trainable(learning, config.lora, tower=config.train_tower, recompute=config.recompute)
        playing = learning if team.size == 1 else deepcopy(learning)
        put_on(playing, device_of(config.device))
        learner = Learner(objective, config, share_out(Said(learning), team, device=config.device), team)
        done, _ = begun(out, learner.optimizer, team, settings, resume=resume)
        rows, _ = (keep_rows(out / name, "iteration", done) if team.leads else [] for name in (METRICS, EXAMPLES))
        success = team.of_first(_success_so_far(rows))
        clock = Clock(rows, max_minutes)
        bar = tqdm(
            total=config.iterations,
            initial=done,
            dynamic_ncols=True,
            unit="iteration",
            disable=None if team.leads else True,
        )
        learner.give(playing)
        trackers, before = config.trackers if team.leads else (), done if resume else None
        with players(config, playing, team, questions) as stage, tracked(trackers, out, before) as track:
            stage.renew(playing)
            while done < config.iterations and not team.most(told.stop):
                trajectories, see, age = stage.play(done, success)
                row = learner.learn(done, trajectories, see)
                age = int(team.most(age))
                success = remembered(success, _by_family(row))
                done += 1
                row |= {"age": age} if config.ray.actors or config.partial else {}
                row |= {"iteration": done, "seconds": round(clock.seconds(), 1)}
                learner.give(playing)
                stage.renew(playing)
                if team.leads:  # before the checkpoint: what a kill in between leaves is dropped and comes again
                    _write(out, row, trajectories, playing)
                    track(done, row)
                    bar.set_postfix({key: f"{value:.3f}" for key, value in row.items()})
                save_checkpoint(out, learner.optimizer, Progress(done), team, settings)
                bar.update()
                if team.most(clock.is_up()):
                    break
        bar.close()
    return done


def _write(out: Path, row: Mapping[str, float], trajectories: Sequence[Trajectory], thinker: Thinker) -> None:
    """What an iteration leaves beside the checkpoint."""
    add_examples(out, int(row["iteration"]), trajectories, thinker.processor.codec)
    add_row(out, row)
    export(thinker, out)
    write_page(out)


def _by_family(row: Mapping[str, float]) -> dict[str, float]:
    return {key.removeprefix(OF_FAMILY): value for key, value in row.items() if key.startswith(OF_FAMILY)}


def _success_so_far(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the rows of the iterations that are done remember of each family."""
    success: dict[str, float] = {}
    for row in rows:
        success = remembered(success, _by_family(row))
    return success
