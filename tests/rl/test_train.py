"""A whole training in small: the tower learns to see, the decoder trajectories."""

import json
import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from foveate.errors import ConfigError, ImageError
from foveate.models import Thinker
from foveate.models.config import PRESETS, TINY
from foveate.models.tokenizer import make_tokenizer
from foveate.rl.journal import load_checkpoint
from foveate.rl.lessons import views
from foveate.rl.lessons.oracle_messages import Conversation
from foveate.rl.lessons.views import draw_sheet
from foveate.rl.optimizer import MasterOptimizer, OptimizerConfig, learning_rate
from foveate.rl.sft import LOOKS
from foveate.rl.stages import make_stage
from foveate.rl.tasks.assets import FONTS, ICON_STYLES
from foveate.rl.tasks.canvas import Canvas
from foveate.rl.team import Team
from foveate.rl.train import (
    TrainConfig,
    _learn,
    _Loss,
    batches,
    echoed,
    plainly,
    split_config,
    totals_of,
    train,
)
from foveate.rl.yaml_values import read_yaml

LOOP = TrainConfig(steps=16, log_every=4, num_workers=0, optimizer=OptimizerConfig(lr=3e-3, warmup_steps=4))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models lose more by handing work over than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    make_tokenizer(["zoom", "image", "box"], TINY.decoder.vocab_size).save(str(path))
    return str(path)


def sft_values(tokenizer: str, **values: Any) -> dict[str, Any]:
    return {
        "preset": "tiny",
        "tokenizer": tokenizer,
        "tokens_per_batch": 150,
        "max_questions": 1,
        "families": ["label"],
        **values,
    }


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_end_to_end(tmp_path: Path, tokenizer: str) -> None:
    tower = make_stage("tower", {"preset": "tiny", "blocks_per_batch": 60}, seed=0)
    train(tower, LOOP, tmp_path / "tower")
    assert losses(tmp_path / "tower")[-1] < losses(tmp_path / "tower")[0]
    start = str(tmp_path / "tower" / "tower.safetensors")
    again = make_stage("tower", {"preset": "tiny", "blocks_per_batch": 60, "start": start}, seed=1)
    losses_of_tokens = [stage.loss(again.batch(0))[1]["token_glyphs"] for stage in (tower, again)]
    assert losses_of_tokens[0] == losses_of_tokens[1]
    looked = {"gaze_coef": 0.5, "brought_coef": 0.5, "dense_coef": 0.5}
    sft = make_stage("sft", sft_values(tokenizer, start=start, page_share=0.5, **looked), seed=0)
    stem = load_file(start)["vision.stem.weight"]
    assert torch.equal(dict(sft.module.named_parameters())["thinker.vision.stem.weight"], stem)
    readout = load_file(start)["token_heads.glyphs.weight"]
    assert torch.equal(dict(sft.module.named_parameters())["token_heads.glyphs.weight"], readout)
    train(sft, LOOP, tmp_path / "sft")
    assert losses(tmp_path / "sft")[-1] < losses(tmp_path / "sft")[0]
    sample = Thinker.from_pretrained(tmp_path / "sft").generate(
        [{"role": "user", "content": "What?"}], max_new_tokens=3
    )
    assert sample.token_ids


def test_a_frozen_tower_stays_and_its_projector_learns(tmp_path: Path, tokenizer: str) -> None:
    stage = make_stage("sft", sft_values(tokenizer, freeze_tower=True, page_share=0.5, sheet_share=0.5), seed=0)
    before = {name: p.detach().clone() for name, p in stage.module.named_parameters()}
    train(stage, TrainConfig(steps=2, num_workers=0), tmp_path)
    changed = {name for name, p in stage.module.named_parameters() if not torch.equal(p, before[name])}
    assert "thinker.vision.merger.up.weight" in changed
    assert "thinker.decoder.embed.weight" in changed
    assert not any(name.startswith(("thinker.vision.blocks", "thinker.vision.stem")) for name in changed)


def test_a_start_that_does_not_exist_is_an_error(tokenizer: str) -> None:
    for stage, values in (("sft", sft_values(tokenizer, start="nowhere")), ("tower", {"start": "nowhere"})):
        with pytest.raises(ConfigError, match="nowhere, which does not exist"):
            make_stage(stage, values, seed=0)


def test_a_run_told_to_stop_saves_what_it_has(tmp_path: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make_stage("sft", sft_values(tokenizer), seed=1)
    draw = stage.batch

    def told(index: int) -> Any:
        if index == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(index)

    monkeypatch.setattr(stage, "batch", told)
    assert train(stage, LOOP, tmp_path) == 3
    assert load_checkpoint(tmp_path, MasterOptimizer(stage.module, LOOP.optimizer)).step == 3
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_picture_about_which_nothing_can_be_asked_is_left_out(
    tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage("sft", sft_values(tokenizer, gaze_coef=0.5), seed=1)
    wanted, draw = stage.batch(0), stage._draw
    page = draw_sheet(random.Random(0), 0.0)
    mute = (page, Conversation(page.image))
    monkeypatch.setattr(stage, "_draw", lambda rng, index: [mute, *draw(rng, index)])
    got = stage.batch(0)
    assert torch.equal(got.transcript.token_ids, wanted.transcript.token_ids)
    assert len(got.transcript.images) == len(wanted.transcript.images)


def test_only_what_the_policy_wrote_carries_gradient(tokenizer: str) -> None:
    stage = make_stage("sft", sft_values(tokenizer), seed=2)
    batch = stage.batch(0)
    hidden = {}

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        hidden["TD"] = output[0]
        output[0].retain_grad()

    handle = stage.thinker.decoder.register_forward_hook(keep)  # type: ignore[union-attr,operator]
    loss, _ = stage.loss(batch)
    loss.backward()
    handle.remove()
    predicts_policy = torch.cat([batch.transcript.by_policy_T[1:], torch.zeros(1, dtype=torch.bool)])
    carries = hidden["TD"].grad.abs().sum(-1) > 0
    assert torch.equal(carries, predicts_policy)


@pytest.mark.parametrize("name", ["sft", "tower"])
def test_only_what_training_may_draw_is_drawn(name: str, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = (
        sft_values(tokenizer)
        if name == "sft"
        else {"preset": "tiny", "blocks_per_batch": 60, "scene_share": 1.0, "sheet_share": 0.0}
    )
    module, splits = import_module(f"foveate.rl.{name}"), set[str]()
    draw = module.draw_scene
    monkeypatch.setattr(
        module, "draw_scene", lambda family, seed, split: draw(family, seed, splits.add(split) or split)
    )
    stage: Any = make_stage(name, values, seed=0)
    stage.batch(1_000_000)  # where what grows with the steps has grown
    assert splits == {"train"}
    assert {family for family, _ in stage.writer.faces} == set(FONTS["train"])
    sheets = [Canvas(random.Random(seed), "train", (900, 700)) for seed in range(30)]
    monkeypatch.setattr(views, "Canvas", lambda rng, split, size: splits.add(split) or Canvas(rng, split, size))
    draw_sheet(random.Random(0), 0.1)
    assert splits == {"train"}
    assert all(sheet.style in ICON_STYLES["train"] for sheet in sheets)


def test_a_supervised_loss_is_the_sum_of_its_parts(tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch, one set of weights, and each part counted more or less."""

    def loss(**coefficients: float) -> tuple[float, dict[str, float]]:
        usual = {"gaze_coef": 1e-9, "brought_coef": 1e-9, "dense_coef": 1e-9, "page_share": 0.0}
        stage: Any = make_stage("sft", sft_values(tokenizer, tokens_per_batch=400, **usual | coefficients), seed=0)
        value, metrics = stage.loss(stage.batch(0))
        return float(value.detach()), {name: float(number) for name, number in metrics.items()} | {
            "coef": stage.balance_coef
        }

    deep = replace(TINY, decoder=replace(TINY.decoder, num_layers=5))
    monkeypatch.setitem(PRESETS, "tiny", deep)  # five layers, of which three are watched
    bare, metrics = loss()
    assert set(LOOKS) < metrics.keys()
    assert metrics["coef"] > 0
    assert bare == pytest.approx(metrics["nll"] + metrics["coef"] * metrics["balance"], rel=0.01)
    looked, metrics = loss(gaze_coef=0.5)
    assert looked - bare == pytest.approx(0.5 * sum(metrics[name] for name in LOOKS), rel=0.05)
    half, whole = (loss(brought_coef=coef)[0] - bare for coef in (0.5, 1.0))
    assert half > 0.1
    assert whole == pytest.approx(2 * half, rel=0.05)
    half, whole = (loss(dense_coef=coef)[0] - bare for coef in (0.5, 1.0))
    assert half > 0.1
    assert whole == pytest.approx(2 * half, rel=0.05)


def test_learning_rate_warms_up_and_ends_at_its_floor() -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=10, final_lr_fraction=0.1)
    assert learning_rate(config, 0, 100) == pytest.approx(0.1)
    assert learning_rate(config, 9, 100) == pytest.approx(1.0)
    assert learning_rate(config, 100, 100) == pytest.approx(0.1)


def test_a_gradient_that_is_no_number_changes_nothing() -> None:
    module = torch.nn.Linear(3, 3)
    before = module.weight.detach().clone()
    optimizer = MasterOptimizer(module, OptimizerConfig())
    module.weight.grad = torch.full_like(module.weight, float("nan"))
    assert not torch.isfinite(torch.tensor(optimizer.step(0.1)))
    assert torch.equal(module.weight, before)


def test_configuration_errors_name_the_key(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("steps: 5\nstage: {preset: tiny}\n")
    loop, stage = split_config(read_yaml(path, ("optimizer.lr=0.5", "stage.page_share=1")))
    assert (loop.optimizer.lr, stage) == (0.5, {"preset": "tiny", "page_share": 1})
    with pytest.raises(ConfigError, match="no '='"):
        read_yaml(path, ("steps",))
    with pytest.raises(ConfigError, match=r"optimizer\.speed"):
        split_config(read_yaml(path, ("optimizer.speed=1",)))
    for override in ("steps=two", "steps=2.5", "optimizer.lr=1e-", "optimizer.muon=1", "stage=", "stage=[1]"):
        with pytest.raises(ConfigError, match=f"^{override.partition('=')[0]} is .*, wanted "):
            split_config(read_yaml(path, (override,)))
    with pytest.raises(ConfigError, match=r"^override 'optimizer\.lr=\[1': its value is no YAML: .*$"):
        read_yaml(path, ("optimizer.lr=[1",))
    path.write_text("steps: 5\n1: 2\noptimizer: {lr: 2E-05}\n")
    with pytest.raises(ConfigError, match="unknown key '1'; known keys are"):
        split_config(read_yaml(path))
    with pytest.raises(ConfigError, match="unknown stage"):
        make_stage("dance", {}, 0)
    with pytest.raises(ConfigError, match="device is 'gpu0', which torch cannot use"):
        make_stage("tower", {}, 0, "gpu0")
    for missing in (tmp_path / "none.yaml", Path("x" * 5000)):
        with pytest.raises(ConfigError, match="no configuration file"):
            read_yaml(missing)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage:\n  preset: tiny\n  start: a\n  preset: nano\n", "preset stands twice, in line 2 and in line 4"),
        ("stage: {preset: tiny,\n  preset: nano}\n", "preset stands twice, in line 1 and in line 2"),
        ('1: a\n\n"1": b\n', "1 stands twice, in line 1 and in line 3"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_both_lines(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"c\\.yaml is no YAML: {said}$"):
        read_yaml(path)


def test_batches_come_again_after_others() -> None:
    assert list(islice(echoed(0), 6)) == [0, 1, 2, 3, 4, 5]
    assert list(islice(echoed(2), 10)) == [0, 1, 2, 0, 3, 1, 4, 2, 5, 3]


@pytest.mark.parametrize("echo_after", [0, 1, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_goes_on_with_the_batches_that_were_due(echo_after: int, accumulate: int) -> None:
    class Numbers:
        def batch(self, index: int) -> int:
            return index

    config = TrainConfig(steps=9, num_workers=0, echo_after=echo_after, accumulate=accumulate)
    for team in (Team(), Team(1, 2)):
        whole = list(batches(Numbers(), 0, config, team))  # type: ignore[arg-type]
        assert len(whole) == 9 * accumulate
        for start in range(9):
            assert list(batches(Numbers(), start, config, team)) == whole[start * accumulate :]  # type: ignore[arg-type]


def test_a_run_that_uses_batches_twice_takes_its_steps(tmp_path: Path, tokenizer: str) -> None:
    stage = make_stage("sft", {"preset": "tiny", "tokenizer": tokenizer, "tokens_per_batch": 300}, seed=0)
    drawn: list[int] = []
    draw = stage.batch
    stage.batch = lambda index: (drawn.append(index), draw(index))[1]  # type: ignore[method-assign, func-returns-value]
    assert train(stage, TrainConfig(steps=7, num_workers=0, echo_after=1), tmp_path) == 7
    assert drawn == [0, 1, 2, 3]


class Means:
    """A stage whose loss is a mean over the numbers of a batch, of which batches have more or fewer."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module: torch.nn.Module = torch.nn.Linear(1, 1)
        self.config = None

    def loss(self, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        return (self.module(batch) - 1).square().mean(), {}

    def weight(self, batch: torch.Tensor) -> float:
        return float(len(batch))


def test_a_batch_is_its_parts_accumulated() -> None:
    parts = [torch.randn(count, 1) for count in (1, 5, 2)]
    gradients = []
    for some in ([torch.cat(parts)], parts):
        stage: Any = Means()
        _learn(_Loss(stage), stage, some, Team())
        gradients.append(torch.cat([p.grad.flatten() for p in stage.module.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_supervised_batch_counts_by_its_tokens(tokenizer: str) -> None:
    stage = make_stage("sft", sft_values(tokenizer), seed=0)
    batches_of = [stage.batch(index) for index in range(3)]
    weights = [stage.weight(batch) for batch in batches_of]
    assert weights == [int(batch.transcript.by_policy_T.sum()) for batch in batches_of]
    assert len(set(weights)) > 1


def test_a_number_that_not_every_step_has_is_averaged_over_those_that_have_it() -> None:
    assert Team().means(totals_of([{"a": 1.0}, {"a": 3.0, "b": 5.0}])) == {"a": 2.0, "b": 5.0}


def test_a_row_weighs_batches_as_the_gradient_does() -> None:
    window = [{"loss": 1.0, "weight": 30.0}, {"loss": 2.0, "weight": 10.0}, {"grad_norm": 3.0}, {"skipped": 1.0}]
    assert Team().means(totals_of([*window, {"skipped": 1.0}])) == {"loss": 1.25, "grad_norm": 3.0, "skipped": 2.0}


def test_a_stage_that_goes_on_with_a_policy_takes_small_steps(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for stage, lr, muon in (("data: some.jsonl", 2e-5, False), ("preset: tiny", 1e-3, True)):
        path.write_text(f"steps: 5\nstage: {{{stage}}}\n")
        loop, _ = split_config(read_yaml(path, ("optimizer.clip_norm=1e-1",)))
        assert (loop.optimizer.lr, loop.optimizer.muon, loop.optimizer.clip_norm) == (lr, muon, 0.1)


def test_readouts_go_on_from_stage_to_stage_and_stay_out_of_the_checkpoint(tmp_path: Path, tokenizer: str) -> None:
    first = make_stage("sft", sft_values(tokenizer, page_share=0.5, dense_coef=0.5), seed=0)
    _, metrics = first.loss(first.batch(0))
    assert {"glyphs", "starts", "nll"} <= set(metrics)
    first.export(tmp_path)
    second = make_stage("sft", sft_values(tokenizer, start=str(tmp_path), dense_coef=0.5), seed=7)
    names = dict(second.module.named_parameters())
    assert torch.equal(
        names["token_heads.names.weight"], dict(first.module.named_parameters())["token_heads.names.weight"]
    )
    assert not any("heads" in name for name in load_file(tmp_path / "model.safetensors"))


class BrokenRows:
    """A dataset whose rows cannot be read."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, idx: int) -> int:
        raise ImageError("some.jsonl, row 9: there is no picture")


def test_an_error_of_a_process_that_draws_is_one_line() -> None:
    with pytest.raises(ImageError, match=r"^some\.jsonl, row 9: there is no picture$"):
        next(plainly(iter(DataLoader(BrokenRows(), batch_size=None, num_workers=1))))  # type: ignore[arg-type]
