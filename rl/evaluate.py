"""`foveate eval`: ask a suite's questions through the very agent that a user runs, and report what came out.

    report = evaluate("nano-test", model="nano", workers=2)
    print(report.to_text())

The model is loaded once. Every question gets an agent of its own, because an agent keeps the pictures it has seen. Two
controls say whether looking mattered: "blank" shows the model a grey image of the same size in place of every crop,
"no-tools" takes the tools away. Answers are sampled greedily, so a suite, a seed and a model give the same report.

With several workers each is a process with the model loaded and one torch thread: on two cores that is faster than two
threads on one small model. An error of a worker ends the evaluation, as it does without workers.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from PIL import Image
from tqdm import tqdm

from foveate.agent.agent import Agent, load_reasoner, reasoner_of
from foveate.errors import InputError
from foveate.models.reasoner import Reasoner
from foveate.rl.report import Report, Result
from foveate.rl.suite import Suite, chosen, open_suite
from foveate.rl.workers import spread

Control = Literal["blank", "no-tools"]
GREY = (128, 128, 128)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to ask and how; plain values, so that a worker process can be given it."""

    suite: str
    seed: int
    control: Control | None


def evaluate(
    suite: str | Path,
    *,
    model: Reasoner | str | Path,
    limit: int | None = None,
    seed: int = 0,
    control: Control | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    workers: int = 1,
) -> Report:
    """Ask every question of a suite and judge the answers.

    suite: "nano-test", or a folder with answers.jsonl. `seed` draws nano-test's pictures, and the sample of a folder
    when `limit` asks for fewer questions than it has.
    model: a Reasoner, a checkpoint folder or "nano"; with more than one worker it must not be a Reasoner.
    out: a file that gets one JSON object a question (`Result.to_json`), in the order of the suite.
    Raises InputError for a wrong suite, control, limit, number of workers or file, before a question is asked.
    """
    if control not in (None, "blank", "no-tools"):
        raise InputError(f"got the control {control!r}, wanted blank or no-tools")
    if workers < 1 or (workers > 1 and not isinstance(model, str | Path)):
        raise InputError(
            f"got {workers} workers and the model {model!r}, wanted 1 worker, or a model by name or folder: "
            "every worker loads its own"
        )
    job = Job(suite=str(suite), seed=seed, control=control)
    questions = open_suite(job.suite, seed=seed)
    idxs = chosen(questions, limit=limit, seed=seed)
    with ExitStack() as stack:
        file = stack.enter_context(_writable(Path(out))) if out is not None else None
        if isinstance(model, str | Path) and workers > 1:
            results = stack.enter_context(spread(answer_share, job, model, idxs, workers))
            name = str(model)
        else:
            reasoner = reasoner_of(model)
            results, name = answer_all(job, reasoner, questions, idxs), reasoner.name
        done = list(_kept(results, len(idxs), file, progress=progress))
    return Report.of(done, suite=questions.name, model=name, control=control, seed=seed)


def answer_share(job: Job, model: str | Path, idxs: Sequence[int]) -> Iterator[Result]:
    """What one of several workers does: load the model, compute with one thread, ask its share of the items."""
    import torch

    torch.set_num_threads(1)
    return answer_all(job, load_reasoner(model), open_suite(job.suite, seed=job.seed), idxs)


def answer_all(job: Job, reasoner: Reasoner, questions: Suite, idxs: Sequence[int]) -> Iterator[Result]:
    """Ask the items with these numbers one after the other."""
    return (answer_one(job, reasoner, questions, idx) for idx in idxs)


def answer_one(job: Job, reasoner: Reasoner, questions: Suite, idx: int) -> Result:
    """Ask one item in a fresh agent."""
    item = questions.item(idx)
    with Agent(
        reasoner,
        tools=() if job.control == "no-tools" else None,
        seed=job.seed,
        observe_image=blank if job.control == "blank" else None,
    ) as agent:
        return Result.of(item, agent.ask(item.question, [item.picture]))


def blank(image: Image.Image) -> Image.Image:
    """A grey image of the same size."""
    return Image.new("RGB", image.size, GREY)


def _kept(results: Iterator[Result], total: int, file: TextIO | None, *, progress: bool) -> Iterator[Result]:
    """Write each result to the file as it comes, and show a bar with the accuracy so far."""
    right = 0
    with tqdm(total=total, disable=not progress, file=sys.stderr, unit="question") as bar:
        for count, result in enumerate(results, start=1):
            if file is not None:
                file.write(json.dumps(result.to_json(), ensure_ascii=False) + "\n")
                file.flush()
            right += result.right
            bar.set_postfix_str(f"{right / count:.1%} right", refresh=False)
            bar.update()
            yield result


def _writable(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write traces to {path} ({error.strerror}); name another file") from error
