"""A scripted reasoner takes a tiny folder suite: verdicts, coverage, controls, traces, workers, and the sandbox."""

import json
import operator
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from needs import needs_bubblewrap
from pictures import noise
from PIL import Image

from foveate.agent.budget import Budget
from foveate.cli import main
from foveate.errors import InputError, ModelError
from foveate.models import Thinker, ThinkerReasoner
from foveate.models.reasoner import NANO, Message, Sample
from foveate.rl.evaluate import GREY, Control, Job, answer_all, evaluate
from foveate.rl.suite import open_suite
from foveate.rl.workers import in_order, spread, work
from foveate.tools.sandbox import probe_result

ZOOM = '<think>Top left.</think><tool_call>{{"name":"zoom","arguments":{{"image":0,"box":{}}}}}</tool_call>'


class Scripted:
    """Zooms where the question says, then answers the colour in the middle of the last image."""

    name = "scripted"
    dialect = NANO

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def seen_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        return width_px, height_px

    def image_tokens(self, width_px: int, height_px: int) -> int:
        return 4

    def sample(
        self,
        messages: Sequence[Message],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
        on_text: Callable[[str], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Sample:
        parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
        images = [part["image"] for part in parts if part["type"] == "image"]
        question = " ".join(part["text"] for part in parts if part["type"] == "text")
        box = re.search(r"\[[\d, ]+\]", question)
        tried = any(message["role"] == "assistant" for message in messages)
        if box and not tried:
            text = ZOOM.format(box.group())
        else:
            picture = images[-1]
            self.seen.append(picture.size)
            pixel = picture.getpixel((picture.width // 2, picture.height // 2))
            text = f"<think>I see.</think><answer>{'-'.join(map(str, pixel))}</answer>"
        return Sample(text=text, token_ids=(1, 2, 3), logprobs=(0.0,) * 3, stop_reason="stop", prompt_tokens=9)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A white picture with a red spot at its top left; the last question gives a wrong answer as the expected one."""
    folder = tmp_path / "spots"
    folder.mkdir()
    picture = Image.new("RGB", (200, 100), "white")
    picture.paste((255, 0, 0), (10, 10, 30, 20))
    picture.save(folder / "spot.png")
    base = {"image": "spot.png", "answer": "255-0-0", "evidence_bbox": [10, 10, 30, 20]}
    records = [
        base | {"id": "near", "family": "spot", "question": "Look at [50, 100, 150, 200]: which colour?"},
        base | {"id": "whole", "family": "page", "question": "Which colour?", "answer": "255-255-255"},
        base | {"id": "beside", "family": "page", "question": "Look at [500, 500, 600, 600]!", "answer": "0-0-0"},
    ]
    text = "\n".join(json.dumps(record) for record in records)
    (folder / "answers.jsonl").write_text(text, encoding="utf-8")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_folder_is_asked_and_judged(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "traces.jsonl"
    report = evaluate(suite, model=Scripted(), out=out)
    assert (report.suite, report.model, report.total.n, report.total.right) == ("spots", "scripted", 3, 2)
    assert {name: score.right for name, score in report.families.items()} == {"spot": 1, "page": 1}
    assert (report.right_with_evidence, report.right_seen) == (2, 1)
    assert report.crop_share == pytest.approx(0.1 * 0.1)
    assert (report.statuses, report.turns) == ({"answered": 3}, pytest.approx(5 / 3))
    near, whole, beside = lines(out)
    assert (near["id"], near["right"], near["answer"], near["expected"]) == ("near", True, "255-0-0", "255-0-0")
    assert near["run"]["steps"][1]["box"] == [10, 10, 30, 20]
    assert near["run"]["answer"] == near["answer"]
    assert (whole["right"], whole["crop_share"]) == (True, None)
    assert (beside["right"], beside["answer"]) == (False, "255-255-255")


def test_blank_greys_every_crop_at_its_size(suite: Path) -> None:
    open_eyes, blind = Scripted(), Scripted()
    evaluate(suite, model=open_eyes)
    report = evaluate(suite, model=blind, control="blank")
    assert open_eyes.seen == blind.seen
    assert (report.total.right, report.families["spot"].right) == (1, 0)
    assert report.control == "blank"


def test_no_tools_leaves_only_the_first_view(suite: Path, tmp_path: Path) -> None:
    reasoner = Scripted()
    report = evaluate(suite, model=reasoner, control="no-tools", out=tmp_path / "t")
    assert set(reasoner.seen) == {(200, 100)}
    assert report.families["spot"].right == 0
    assert all(step["image"] is None for record in lines(tmp_path / "t") for step in record["run"]["steps"])


def test_the_blank_image_is_grey(suite: Path, tmp_path: Path) -> None:
    evaluate(suite, model=Scripted(), control="blank", out=tmp_path / "t")
    assert lines(tmp_path / "t")[0]["answer"] == "-".join(map(str, GREY))


def test_a_limit_asks_fewer(suite: Path) -> None:
    assert evaluate(suite, model=Scripted(), limit=2).total.n == 2


def test_nano_test_runs(tmp_path: Path) -> None:
    report = evaluate("nano-test", model=Scripted(), limit=2, control="no-tools")
    assert (report.suite, report.total.n, len(report.families)) == ("nano-test", 2, 2)


class Failing(Scripted):
    """Fails after so many questions."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def sample(self, *args: Any, **kwargs: Any) -> Sample:
        if len(self.seen) >= self.after:
            raise ModelError("nobody is there")
        return super().sample(*args, **kwargs)


def test_a_model_that_fails_is_told_once(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = evaluate(suite, model=Failing(after=1), out=tmp_path / "t")
    assert report.statuses == {"error": 2, "answered": 1}
    assert capsys.readouterr().err == "foveate: whole ended in an error: nobody is there\n"
    assert [line["run"]["reason"] for line in lines(tmp_path / "t")] == ["", "nobody is there", "nobody is there"]


def sandbox_told(suite: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str | None, str]:
    """What the report says that code ran in, and stderr."""
    assert main(["eval", str(suite), "--json"], load=lambda *_: Scripted()) == 0
    out, err = capsys.readouterr()
    return json.loads(out)["sandbox"], err


def test_where_no_code_can_run_the_report_says_so(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("foveate.tools.sandbox.SEARCH_PATH", "")  # no bubblewrap
    probe_result.forget()
    try:
        sandbox, err = sandbox_told(suite, capsys)
    finally:
        probe_result.forget()
    assert sandbox is None
    said = "foveate: python calls fail: no sandbox for code on this machine (bubblewrap is not installed)"
    assert err.startswith(said)
    assert err.count("\n") == 1


@needs_bubblewrap
def test_where_code_can_run_the_report_says_in_what(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sandbox_told(suite, capsys) == ("bubblewrap", "")


EARLIER = '{"schema_version": 0, "id": "of an earlier version"}\n'


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["answers.jsonl", "spot.png", "notes.txt", "rollouts.jsonl"])
def test_a_file_that_holds_no_results_is_not_written_over(name: str, resume: bool, suite: Path) -> None:
    (suite / "notes.txt").write_text("mine")
    (suite / "rollouts.jsonl").write_text('{"schema_version": 2, "source": "abc", "id": "near"}\n')
    before, model = (suite / name).read_bytes(), Scripted()
    with pytest.raises(InputError, match="holds something else than results"):
        evaluate(suite, model=model, out=suite / name, resume=resume)
    assert (suite / name).read_bytes() == before
    assert not model.seen


def test_a_dead_model_ends_the_evaluation_and_leaves_earlier_traces(suite: Path, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(EARLIER)
    with pytest.raises(ModelError, match="the first 3 questions all ended in an error: nobody is there"):
        evaluate(suite, model=Failing(after=0), out=tmp_path / "t")
    assert (tmp_path / "t").read_text() == EARLIER


def test_traces_replace_earlier_ones(suite: Path, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(EARLIER)
    evaluate(suite, model=Scripted(), out=tmp_path / "t")
    assert [line["id"] for line in lines(tmp_path / "t")] == ["near", "whole", "beside"]


def test_a_killed_run_goes_on_where_it_was(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "t"
    whole = evaluate(suite, model=Scripted(), out=out)
    first, *rest = lines(out)
    torn = json.dumps(first) + "\n" + json.dumps(rest[0])[:40]
    out.write_text(torn)
    later = Scripted()
    again = evaluate(suite, model=later, out=out, resume=True)
    assert len(later.seen) == 2
    assert [line["id"] for line in lines(out)] == ["near", "whole", "beside"]
    assert (again.total, again.families, again.crop_share) == (whole.total, whole.families, whole.crop_share)
    done = Scripted()
    assert evaluate(suite, model=done, out=out, resume=True).total == whole.total
    assert done.seen == []


def test_a_file_that_is_not_there_is_begun(suite: Path, tmp_path: Path) -> None:
    assert evaluate(suite, model=Scripted(), out=tmp_path / "t", resume=True).total.n == 3
    assert len(lines(tmp_path / "t")) == 3


def test_all_follow_the_first_ones_of_a_drawn_suite(tmp_path: Path) -> None:
    out, later = tmp_path / "t", Scripted()
    evaluate("nano-validation", model=Scripted(), limit=2, control="no-tools", out=out)
    report = evaluate("nano-validation", model=later, limit=3, control="no-tools", out=out, resume=True)
    assert (report.total.n, len(later.seen), len(lines(out))) == (3, 1, 3)
    assert evaluate("nano-validation", model=later, limit=1, control="no-tools", out=out, resume=True).total.n == 1
    assert (len(later.seen), len(lines(out))) == (1, 3)


def test_another_run_is_not_gone_on_with(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "t"
    evaluate(suite, model=Scripted(), out=out)
    before = out.read_text()
    for other in ({"control": "blank"}, {"seed": 1}, {"limit": 2}, {"budget": Budget(turns=1)}, {"temperature": 0.5}):
        with pytest.raises(InputError, match=r"t:1 is of run '\w+', wanted '\w+'; give the same suite, model and"):
            evaluate(suite, model=Scripted(), out=out, resume=True, **other)  # type: ignore[arg-type]
    (suite / "answers.jsonl").write_text((suite / "answers.jsonl").read_text() + "\n")
    with pytest.raises(InputError, match="is of run"):
        evaluate(suite, model=Scripted(), out=out, resume=True)
    assert out.read_text() == before


def test_other_weights_under_the_same_name_are_another_run(suite: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "t", Scripted()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    model.name = f"{tmp_path}:nf4"
    evaluate(suite, model=model, out=out)
    assert evaluate(suite, model=model, out=out, resume=True).total.n == 3
    weights.write_bytes(b"22")
    with pytest.raises(InputError, match="is of run"):
        evaluate(suite, model=model, out=out, resume=True)


def test_what_is_no_result_is_not_gone_on_with(suite: Path, tmp_path: Path) -> None:
    for line in ('{"schema_version": 1, "id": "', '{"schema_version": 1, "id": "near"}', EARLIER.strip()):
        (tmp_path / "t").write_text(line + "\n")
        with pytest.raises(InputError, match="t:1 is no result"):
            evaluate(suite, model=Scripted(), out=tmp_path / "t", resume=True)
        assert (tmp_path / "t").read_text() == line + "\n"


def test_a_broken_picture_is_an_error_of_its_question(suite: Path) -> None:
    whole = (suite / "spot.png").read_bytes()
    (suite / "cut.png").write_bytes(whole[: len(whole) // 2])
    text = (suite / "answers.jsonl").read_text()
    (suite / "answers.jsonl").write_text(text.replace("spot.png", "cut.png", 1))
    report = evaluate(suite, model=Scripted())
    assert report.statuses == {"answered": 2, "error": 1}
    assert report.first_error is not None
    assert report.first_error == report.to_json()["first_error"]
    assert report.total.right == 1


@pytest.mark.parametrize("control", [None, "blank", "no-tools"])
def test_several_at_once_answer_what_one_at_a_time_does(suite: Path, tmp_path: Path, control: Control | None) -> None:
    text = (suite / "answers.jsonl").read_text()
    records = [
        json.loads(line) | {"id": f"{turn}-{n}"} for turn in range(4) for n, line in enumerate(text.splitlines())
    ]
    (suite / "answers.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    alone = evaluate(suite, model=Scripted(), control=control, out=tmp_path / "alone.jsonl")
    several = evaluate(suite, model=Scripted(), control=control, out=tmp_path / "several.jsonl", at_once=5)
    assert replace(several, seconds=0.0) == replace(alone, seconds=0.0)
    for key in ("id", "answer", "right", "crop_share"):
        assert [row[key] for row in lines(tmp_path / "several.jsonl")] == [
            row[key] for row in lines(tmp_path / "alone.jsonl")
        ]


def test_a_thinker_is_asked_several_at_once(suite: Path, thinker: Thinker) -> None:
    """More than its cache had places for; and again the same."""
    reasoner, budget = ThinkerReasoner(thinker, num_slots=1), Budget(turns=2, policy_tokens=30)
    alone, several, again = (
        evaluate(suite, model=reasoner, budget=budget, at_once=at_once, temperature=0.7, out=suite / f"{number}.jsonl")
        for number, at_once in enumerate((1, 3, 3))
    )
    assert several.policy_tokens == again.policy_tokens
    assert reasoner.with_slots(3).engine.truncates == reasoner.engine.truncates
    assert not ThinkerReasoner(thinker, truncates=False, shortens=False).with_slots(3).engine.truncates
    assert not ThinkerReasoner(thinker, truncates=False, shortens=False).with_slots(3).shortens
    said = [[row["answer"] for row in lines(suite / f"{number}.jsonl")] for number in range(3)]
    assert said[1] == said[2] == said[0]
    assert alone.total == several.total


def test_who_stops_an_evaluation_waits_for_no_answer(suite: Path) -> None:
    """As Ctrl-C does: questions in flight end at their next token."""
    begun = threading.Event()

    class Slow(Scripted):
        def sample(self, messages: Sequence[Message], **asked: Any) -> Sample:
            begun.set()
            while not asked["should_stop"]():
                time.sleep(0.01)
            return Sample(text="", token_ids=(), logprobs=(), stop_reason="cancelled", prompt_tokens=9)

    job = Job(suite=str(suite), seed=0, control=None)
    results, start = answer_all(job, Slow(), open_suite(job.suite), range(3), at_once=2), time.monotonic()
    stopper = threading.Thread(target=lambda: begun.wait(10) and os.kill(os.getpid(), signal.SIGINT))
    stopper.start()
    with pytest.raises(KeyboardInterrupt):
        list(results)
    stopper.join()
    assert time.monotonic() - start < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("seat")]


def test_what_ends_an_evaluation_ends_all_that_are_asked(suite: Path) -> None:
    class Broken(Scripted):
        def sample(self, messages: Sequence[Message], **asked: Any) -> Sample:
            if "0-0-0" in str(self.seen) or len(self.seen) > 1:
                raise KeyError("a bug")
            return super().sample(messages, **asked)

    with pytest.raises(KeyError, match="a bug"):
        evaluate(suite, model=Broken(), at_once=2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("seat")]


def test_the_budget_holds_for_each_question(suite: Path) -> None:
    report = evaluate(suite, model=Scripted(), budget=Budget(turns=1))
    assert report.statuses == {"out_of_budget": 2, "answered": 1}


def test_wrong_arguments_are_refused_before_a_question(suite: Path, tmp_path: Path) -> None:
    for wrong, message in (
        ({"control": "blind"}, "wanted blank or no-tools"),
        ({"workers": 0}, "wanted 1 worker"),
        ({"workers": 2}, "every worker loads its own"),
        ({"at_once": 0}, "got 0 questions at once, wanted 1 or more"),
        ({"limit": 0}, "wanted at least 1"),
        ({"out": tmp_path}, "cannot write traces"),
        ({"resume": True}, "name it with out"),
    ):
        reasoner = Scripted()
        with pytest.raises(InputError, match=message):
            evaluate(suite, model=reasoner, **wrong)
        assert reasoner.seen == []


def test_workers_share_no_gpu(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="got 3 workers, each of which would put the model on one GPU; wanted 1 with"):
        evaluate(suite, model="nano", workers=3, device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match="got 2 workers"):
        evaluate(suite, model=suite, workers=2)  # any folder: auto is a GPU then


def test_a_worker_sends_results_or_its_error(suite: Path) -> None:
    job = Job(suite=str(suite), seed=0, control=None)
    inbox: queue.Queue[tuple[int, Any]] = queue.Queue()

    def scripted(job: Job, model: str | Path, idxs: Sequence[int]) -> Iterator[Any]:
        return answer_all(job, Scripted(), open_suite(job.suite), idxs)

    work(scripted, job, "unused", [2], inbox)
    work(scripted, job, "unused", [0, 1], inbox)
    assert [result.id for result in in_order([0, 1, 2], inbox, ())] == ["near", "whole", "beside"]
    work(scripted, Job(suite="missing", seed=0, control=None), "unused", [0], inbox)
    with pytest.raises(InputError, match="missing"):
        next(in_order([0], inbox, ()))


def test_processes_share_the_numbers() -> None:
    """The worker function must be found by its name in a new process: ``map`` stands for one that asks a model."""
    with spread(map, operator.mul, "ab", [1, 2, 3, 4], 2) as results:  # type: ignore[arg-type]
        assert list(results) == ["a", "aa", "bbb", "bbbb"]


def test_a_dead_worker_is_told() -> None:
    dead = SimpleNamespace(exitcode=-9)
    with pytest.raises(ModelError, match="died"):
        next(in_order([0], queue.Queue(), [dead]))  # type: ignore[list-item]


def test_another_picture_under_the_same_name_is_another_suite(suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "traces.jsonl"
    evaluate(suite, model=Scripted(), out=out)
    picture = suite / json.loads((suite / "answers.jsonl").read_text().splitlines()[0])["image"]
    noise(70, 50, 9).save(picture)
    with pytest.raises(InputError, match="is of run"):
        evaluate(suite, model=Scripted(), out=out, resume=True)
