"""The same few questions before a training and after it, for its page: what has changed, to look at.

    OUT/traces/N-before/trace.html     the page of an answer, as `foveate ask --save-trace` writes one
    OUT/traces/N-before/result.json    the same answer with what was wanted
    OUT/traces/N-after/...

They are asked greedily, without a clock, of the weights that the run starts from and of those that it leaves; what
training does is not changed by it. Policies and sft are asked drawn questions of the validation split, or the first
ones of their folder; dpo and sft on conversations those of their file. The tower answers none, nor is anything known
that is right of a dataset in TRL's form.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import torch

from foveate.agent.agent import Agent
from foveate.agent.budget import Budget
from foveate.agent.records import Answer
from foveate.agent.trace import write_trace
from foveate.errors import ImageError
from foveate.models.generate import ThinkerReasoner
from foveate.models.thinker import Thinker
from foveate.paths import expanded, is_file
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.preferences import is_of_trl
from foveate.rl.report import Result
from foveate.rl.suite import FolderSuite, Item, drawn_item
from foveate.rl.trainable import open_policy
from foveate.rl.trajectory import read_trajectories
from foveate.rl.writing import replaced, told

TRACES, RESULT = "traces", "result.json"
When = Literal["before", "after"]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Some questions about the weights of a run."""

    out: Path
    items: Sequence[Item]
    budget: Budget
    device: str = "cpu"
    """Where the model computes."""

    def ask(self, when: When, model: str | Path, *, again: bool = True) -> None:
        """Ask a checkpoint folder, or those alone that were not asked. Of a team the first process asks.

        A file, as a tower's, and no name at all answer nothing. Raises CheckpointError for what the disk refuses.
        """
        folders = [self.out / TRACES / f"{number}-{when}" for number, _ in enumerate(self.items, start=1)]
        left = [pair for pair in zip(self.items, folders, strict=True) if again or not is_file(pair[1] / RESULT)]
        if not left or not leads() or not str(model) or is_file(expanded(model)):
            return
        with torch.random.fork_rng(devices=[]):  # making a thinker draws numbers
            thinker = open_policy(model, self.device)
        for item, folder in left:
            self._ask_one(thinker, item, folder)

    def _ask_one(self, thinker: Thinker, item: Item, folder: Path) -> None:
        """Write what came of a question; of a picture that cannot be shown, why."""
        with Agent(ThinkerReasoner(thinker), budget=self.budget) as agent:
            try:
                answer = agent.ask(item.question, [item.picture])
            except ImageError as error:
                answer = Answer.of_error(str(error))
            with told(folder):
                write_trace(answer, item.question, agent.image, folder)
                with replaced(folder / RESULT) as fresh:
                    fresh.write_text(json.dumps(Result.of(item, answer).to_json()), encoding="utf-8")


def leads() -> bool:
    """Whether this process is alone, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def examples_of(config: Any, number: int, out: Path, seed: int = 0, device: str = "cpu") -> Examples:
    """So many of a run; `config` is a policy's or a stage's. Raises what reading its questions raises."""
    drawn = PolicyConfig(start="", iterations=1)
    budget = Budget(seconds=math.inf) if getattr(config, "data", "") else getattr(config, "budget", drawn.budget)
    return Examples(out=out, items=list(islice(_items(config, seed), number)), budget=budget, device=device)


def read_results(out: Path) -> list[list[tuple[str, Result, str]]]:
    """When what was answered, and the page of it seen from `out`; question by question, as far as it was."""
    paths = sorted((out / TRACES).glob(f"*/{RESULT}"), key=lambda path: int(path.parent.name.partition("-")[0]))
    asked: dict[str, list[tuple[str, Result, str]]] = defaultdict(list)
    for path in paths:
        number, _, when = path.parent.name.partition("-")
        result = Result.from_json(json.loads(path.read_text(encoding="utf-8")))
        asked[number].append((when, result, f"{TRACES}/{path.parent.name}/trace.html"))
    return [sorted(sides, key=itemgetter(0), reverse=True) for sides in asked.values()]  # before, after


def _items(config: Any, seed: int) -> Iterator[Item]:
    if data := getattr(config, "data", ""):
        if data.endswith(".jsonl") and not is_of_trl(expanded(data)):
            yield from _of_rollouts(expanded(data))
    elif tasks := getattr(config, "tasks", ""):
        suite = FolderSuite(tasks)
        yield from map(suite.item, range(len(suite)))
    elif families := config.sampler.families if isinstance(config, PolicyConfig) else getattr(config, "families", ()):
        for number in count():
            turn, which = divmod(number, len(families))
            yield drawn_item(families[which], turn, "validation", f"examples {seed}")


def _of_rollouts(path: Path) -> Iterator[Item]:
    """The questions of a file, each once."""
    seen = set[int]()
    for one in read_trajectories(path):
        if one.group not in seen and one.run["images"]:
            seen.add(one.group)
            yield Item(
                id=one.id, family=one.family, question=one.question, answer=one.expected, accept=one.accept,
                kind=one.kind, evidence=one.evidence, picture=one.pictures.get(one.run["images"][0]["sha256"]),
            )  # fmt: skip
