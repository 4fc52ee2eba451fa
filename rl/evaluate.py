"""`foveate eval`: ask a suite's questions through the very agent that a user runs, and report what came out.

    report = evaluate("nano-test", model="nano", workers=2)
    print(report.to_text())

The model is loaded once. Every question gets an agent of its own, because an agent keeps the pictures it has seen. Two
controls say whether looking mattered: "blank" shows the model a grey image of the same size in place of every crop,
"no-tools" takes the tools away. Without a temperature a suite, a seed and a model give the same report.

With several workers each is a process with the model loaded and one torch thread: on two cores that is faster than two
threads on one small model. Several questions at once share a process and its model: a thinker decodes them in one
batch. An error of a worker ends the evaluation, as it does without workers. A question whose model fails, or whose
picture is broken, is a result with the status "error"; when the first ones all are, nothing more is asked.
"""

import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from PIL import Image
from tqdm import tqdm

from foveate.agent.agent import Agent
from foveate.agent.budget import Budget
from foveate.agent.plain import one_line
from foveate.agent.records import Answer
from foveate.errors import ImageError, InputError, ModelError
from foveate.models.device import AUTO
from foveate.models.generate import ThinkerReasoner
from foveate.models.load import known_model, load_reasoner, place_of, reasoner_of
from foveate.models.reasoner import ENDPOINT, Reasoner, name_parts
from foveate.rl.gate import Gate
from foveate.rl.report import Report, Result
from foveate.rl.results import check_writable, read_results, refuse_foreign, written
from foveate.rl.seats import Seated, seated
from foveate.rl.sources import answers_of, source_of, stamps_of, weights_of
from foveate.rl.suite import DRAWN, SUITE_VERSION, Item, Suite, chosen, open_suite
from foveate.rl.workers import spread
from foveate.tools.sandbox import told_tier

Control = Literal["blank", "no-tools"]
GREY = (128, 128, 128)
PATIENCE = 3
"""Questions that may all end in an error before the model is taken for dead."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to ask and how; plain values, so that a worker process can be given it."""

    suite: str
    seed: int
    control: Control | None
    budget: Budget = field(default_factory=Budget)
    temperature: float = 0.0


def evaluate(
    suite: str | Path,
    *,
    model: Reasoner | str | Path,
    limit: int | None = None,
    seed: int = 0,
    control: Control | None = None,
    budget: Budget | None = None,
    temperature: float = 0.0,
    out: str | Path | None = None,
    resume: bool = False,
    workers: int = 1,
    at_once: int = 1,
    device: str = AUTO,
) -> Report:
    """Ask every question of a suite and judge the answers.

    suite: "nano-test", "nano-validation" to choose by, or a folder with answers.jsonl. `seed` draws the pictures of the
    first two, and the sample of a folder when `limit` asks for fewer questions than it has.
    model: a Reasoner, a checkpoint folder or "nano"; with more than one worker it must not be a Reasoner.
    budget: of each question; `seconds` go by while others are answered, too.
    at_once: questions in flight, of each worker.
    device: where a model that is given by name computes, as for an Agent.
    out: a file that gets one JSON object a question (`Result.to_json`), in the order of the suite. One that is there is
    replaced when the first questions have been answered; with `resume` only those are asked that a killed run of the
    same suite, model and settings has not written to it, or one of the first so many of the same questions.
    The first error of a question is said on stderr, where a terminal sees a bar too. Raises InputError for a wrong
    suite, control, limit, number of workers or file, before a question is asked, and ModelError when the first
    questions all end in an error.
    """
    if control not in (None, "blank", "no-tools"):
        raise InputError(f"got the control {control!r}, wanted blank or no-tools")
    if workers < 1 or (workers > 1 and not isinstance(model, str | Path)):
        raise InputError(
            f"got {workers} workers and the model {model!r}, wanted 1 worker, or a model by name or folder: "
            "every worker loads its own"
        )
    if workers > 1 and place_of(known_model(str(model)), device).startswith("cuda"):
        raise InputError(
            f"got {workers} workers, each of which would put the model on one GPU; wanted 1 with at_once={workers}, or "
            "the device cpu"
        )
    if at_once < 1:
        raise InputError(f"got {at_once} questions at once, wanted 1 or more")
    if resume and out is None:
        raise InputError("resume goes on with the file of an earlier run; name it with out")
    job = Job(suite=str(suite), seed=seed, control=control, budget=budget or Budget(), temperature=temperature)
    questions = open_suite(job.suite, seed=seed)
    idxs = chosen(questions, limit=limit, seed=seed)
    if out is not None:
        check_writable(Path(out))
        refuse_foreign(Path(out))
    model = reasoner_of(model, device) if workers == 1 else model
    is_named = isinstance(model, str | Path) and not str(model).startswith(ENDPOINT)
    name = str(model) if is_named else reasoner_of(model).name
    sample = None if idxs == range(len(idxs)) else idxs
    source = source_of(job, _asked(job.suite), sample, name, stamps_of(*_weights_of(name)))
    held = read_results(Path(out), source)[: len(idxs)] if resume and out is not None else []
    left = idxs[len(held) :]
    sandbox = None if control == "no-tools" else told_tier()
    with ExitStack() as stack:
        if isinstance(model, str | Path):
            results = stack.enter_context(
                spread(partial(answer_share, device=device, at_once=at_once), job, model, left, workers)
            )
        else:
            results = stack.enter_context(closing(answer_all(job, model, questions, left, at_once)))
        results = answering(results) if all(result.error is not None for result in held) else results
        if out is not None:
            results = written(results, Path(out), source, len(held))
        done = held + list(_shown(results, held, len(idxs)))
    return Report.of(
        done, suite=questions.name, model=name, control=control, seed=seed, sandbox=sandbox,
        suite_version=SUITE_VERSION if job.suite in DRAWN else None,
    )  # fmt: skip


def answer_share(
    job: Job, model: str | Path, idxs: Sequence[int], *, device: str = AUTO, at_once: int = 1
) -> Iterator[Result]:
    """What one of several workers does: load the model, compute with one thread, ask its share of the items."""
    import torch

    torch.set_num_threads(1)
    return answer_all(job, load_reasoner(model, device), open_suite(job.suite, seed=job.seed), idxs, at_once)


def answer_all(
    job: Job, reasoner: Reasoner, questions: Suite, idxs: Sequence[int], at_once: int = 1
) -> Generator[Result]:
    """Ask the items with these numbers, so many at once; results come in their order."""
    if at_once == 1:
        yield from (answer_one(job, reasoner, questions.item(idx)) for idx in idxs)
        return
    if isinstance(reasoner, ThinkerReasoner):
        reasoner = reasoner.with_slots(at_once)
    gate = Gate()
    yield from seated(
        map(questions.item, idxs),
        at_once,
        lambda item, player: answer_one(job, Seated(reasoner, gate, player), item, gate),
        reasoner,
        gate,
    )


def answer_one(job: Job, reasoner: Reasoner, item: Item, gate: Gate | None = None) -> Result:
    """Ask one item in a fresh agent; a picture that cannot be opened is an error of this question."""
    with (
        Agent(
            reasoner,
            tools=() if job.control == "no-tools" else None,
            budget=job.budget,
            temperature=job.temperature,
            seed=job.seed,
            observe_image=blank if job.control == "blank" else None,
        ) as agent,
        (gate or Gate()).heeded(agent.cancel),
    ):
        try:
            answer = agent.ask(item.question, [item.picture])
        except ImageError as error:
            answer = Answer.of_error(str(error))
        return Result.of(item, answer)


def blank(image: Image.Image) -> Image.Image:
    """A grey image of the same size."""
    return Image.new("RGB", image.size, GREY)


def answering(results: Iterator[Result]) -> Iterator[Result]:
    """The same results; ModelError when the first ones all ended in an error."""
    first = list(islice(results, PATIENCE))
    errors = [result.error for result in first if result.error is not None]
    if len(errors) == PATIENCE:
        raise ModelError(f"the first {PATIENCE} questions all ended in an error: {errors[0]}")
    yield from chain(first, results)


def _asked(suite: str) -> object:
    """What decides a suite's questions beside its name and the seed."""
    return SUITE_VERSION if suite in DRAWN else stamps_of(*answers_of(suite))


def _weights_of(name: str) -> list[Path]:
    """The files that decide what a model says, as far as they lie here: not those of an endpoint."""
    _, folder, _ = name_parts(name)
    return weights_of(folder)


def _shown(results: Iterator[Result], held: Sequence[Result], total: int) -> Iterator[Result]:
    """The same with a bar that has the accuracy so far, at a terminal; the first error is told everywhere."""
    right, told = sum(result.right for result in held), False
    with tqdm(initial=len(held), total=total, disable=None, file=sys.stderr, unit="question") as bar:
        for count, result in enumerate(results, start=len(held) + 1):
            if result.error is not None and not told:
                bar.write(f"foveate: {result.id} ended in an error: {one_line(result.error, 500)}", file=sys.stderr)
                told = True
            right += result.right
            bar.set_postfix_str(f"{right / count:.1%} right", refresh=False)
            bar.update()
            yield result
