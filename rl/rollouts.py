"""What `foveate rollout` does: questions to a file of trajectories, and a line that says what came of them."""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from foveate.errors import InputError
from foveate.models.snapshot import checkpoint_folder
from foveate.paths import expanded, is_folder
from foveate.rl.players import jobs_of
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.questions import questions_of
from foveate.rl.rollout import Trajectory, living, rollouts
from foveate.rl.sampler import SamplerConfig
from foveate.rl.sources import answers_of, source_of, stamps_of, weights_of
from foveate.rl.suite import ANSWERS, SUITE_VERSION
from foveate.rl.tasks.scene import FAMILIES
from foveate.rl.trainable import open_policy
from foveate.rl.trajectory import count_trajectories, read_trajectories, write_trajectories


def asked_of(model: Path, tasks: str, **settings: Any) -> PolicyConfig:
    """What is asked of a model: questions of some families, of all, or of a folder; `settings` are PolicyConfig's.

    Raises InputError for a family or folder that is not there, ConfigError for a number that is none.
    """
    folder, sampler = _tasks_of(tasks)
    return PolicyConfig(start=str(checkpoint_folder(model)), iterations=1, tasks=folder, sampler=sampler, **settings)


def roll_out(config: PolicyConfig, out: Path, *, temperature: float = 1.0, resume: bool = False) -> str:
    """Play the questions and write them; returns how many, how many right, and the tokens of each.

    With `resume` only what a killed run of the same settings has not written yet. Raises InputError for a file that
    cannot be written or holds conversations of another run, and ModelError when all conversations fail.
    """
    if out.suffix != ".jsonl":
        raise InputError(f"got the file {out}, wanted a name that ends in .jsonl")
    questions = questions_of(config)
    source = run_of(config, temperature)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror}); name another file") from error
    write_trajectories(out, (), source=source, resume=resume)  # whether one can, before the model is loaded
    held = count_trajectories(out, source)
    with rollouts(
        open_policy(config.start, config.device),
        at_once=config.at_once,
        temperature=temperature,
        budget=config.budget,
        keeps_messages=True,
        name=config.start,
    ) as playing:
        jobs = islice(jobs_of(config, 0, {}, questions=questions), held, None)
        played = _shown(playing.play(jobs), held, config.prompts * config.samples)
        write_trajectories(out, played if held else living(played), source=source, resume=True)
    return _summary(out)


def _tasks_of(tasks: str) -> tuple[str, SamplerConfig]:
    """The folder of questions that is meant, or none and the families that are. Raises InputError for neither."""
    families = FAMILIES if tasks == "all" else tuple(tasks.split(","))
    unknown = set(families) - set(FAMILIES)
    if not unknown:
        return "", SamplerConfig(families=families)
    if tasks and is_folder(expanded(tasks)):
        return tasks, SamplerConfig()
    wanted = f"all, some of {', '.join(FAMILIES)}, or a folder with {ANSWERS}"
    raise InputError(f"got the tasks {', '.join(map(repr, sorted(unknown)))}, wanted {wanted}")


def run_of(config: PolicyConfig, temperature: float) -> str:
    """A short name of what decides which conversations come: the files of model and questions, and what is asked."""
    questions = stamps_of(*answers_of(config.tasks)) if config.tasks else SUITE_VERSION
    asked = (config.prompts, config.samples, config.sampler.families, config.seed, config.budget, temperature)
    return source_of(stamps_of(*weights_of(config.start)), questions, asked)


def _shown(trajectories: Iterable[Trajectory], held: int, total: int) -> Iterator[Trajectory]:
    """The same with a bar."""
    hidden = not sys.stderr.isatty()
    return iter(tqdm(trajectories, initial=held, total=total, disable=hidden, unit="conversation"))


def _summary(out: Path) -> str:
    counts = [
        (one.right, len(one.sampled_S), not (one.is_whole or one.status == "error"), one.status == "error")
        for one in read_trajectories(out)
    ]
    right, tokens, cut, failed = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0, 0)
    told = f", {cut} cut by the budget" * bool(cut) + f", {failed} failed" * bool(failed)
    return f"{len(counts)} conversations, {right} right{told}, {tokens / max(1, len(counts)):.0f} tokens each"
