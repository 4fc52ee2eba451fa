"""What `foveate rollout` does: questions to a file of trajectories, and a line that says what came of them."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from foveate.errors import InputError
from foveate.models.thinker import Thinker
from foveate.ops import compute_dtype
from foveate.rl.players import jobs_of
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.rollout import Trajectory, rollouts
from foveate.rl.sampler import SamplerConfig
from foveate.rl.tasks.scene import FAMILIES
from foveate.rl.trajectory import write_trajectories


def roll_out(
    model: Path,
    out: Path,
    *,
    tasks: str = "all",
    prompts: int = 64,
    samples: int = 8,
    at_once: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
) -> str:
    """Play the questions and write them; returns how many, how many right, and the tokens of each.

    Raises InputError for a family that is not there, or a file that cannot be written.
    """
    families = FAMILIES if tasks == "all" else tuple(tasks.split(","))
    if unknown := set(families) - set(FAMILIES):
        raise InputError(f"got the tasks {', '.join(sorted(unknown))}, wanted all or some of {', '.join(FAMILIES)}")
    if out.suffix != ".jsonl":
        raise InputError(f"got the file {out}, wanted a name that ends in .jsonl")
    config = PolicyConfig(
        start=str(model),
        iterations=1,
        prompts=prompts,
        samples=samples,
        sampler=SamplerConfig(families=families),
        seed=seed,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    counts = {"right": 0, "tokens": 0}
    with rollouts(
        Thinker.from_pretrained(model, dtype=compute_dtype()),
        at_once=at_once,
        temperature=temperature,
        budget=config.budget,
        keeps_messages=True,
    ) as playing:
        written = write_trajectories(out, _counted(playing.play(jobs_of(config, 0, {})), prompts * samples, counts))
    return f"{written} conversations, {counts['right']} right, {counts['tokens'] / max(1, written):.0f} tokens each"


def _counted(trajectories: Iterable[Trajectory], total: int, counts: dict[str, int]) -> Iterator[Trajectory]:
    for trajectory in tqdm(trajectories, total=total, disable=not sys.stderr.isatty(), unit="conversation"):
        counts["right"] += trajectory.right
        counts["tokens"] += len(trajectory.sampled_S)
        yield trajectory
