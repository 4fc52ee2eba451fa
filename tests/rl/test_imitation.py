"""SFT on conversations: what was written there becomes likelier, and nothing else is learned.

Proved with the tiny thinker: for the policy that wrote a file the loss is minus the mean of the log-probabilities at
sampling, pictures and crops included; only hidden states before its own tokens get a gradient; right and whole
conversations are taken; a batch is as many batches of one; a run that stopped goes on bit by bit; rows in TRL's form
count what the assistant says after the prompt; what cannot be used is refused and named. On tiny random Qwen2.5-VL and
Kimi-VL folders: it learns, with adapters and without.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import kimi
import pytest
import qwen
import torch
import yaml
from pictures import noise
from played import BUDGET, jobs, whole
from safetensors.torch import load_file
from torch import Tensor

from foveate.cli import main
from foveate.errors import ConfigError, ImageError, InputError
from foveate.models import Thinker
from foveate.models.transcript import pack
from foveate.rl import trainable
from foveate.rl.imitation import ImitationConfig, ImitationStage, open_examples
from foveate.rl.journal import CHECKPOINT
from foveate.rl.optimizer import OptimizerConfig
from foveate.rl.players import jobs_of
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.rollout import Trajectory, rollouts
from foveate.rl.stages import make_stage
from foveate.rl.train import TrainConfig, train
from foveate.rl.trainable import LoraConfig
from foveate.rl.trajectory import write_trajectories

NANO = Path(__file__).parents[2] / "models" / "nano" / "weights"
FAMILIES: dict[str, Any] = {"kimi_vl": kimi.save, "qwen2_5_vl": lambda folder: qwen.save("qwen2_5_vl", folder)}
QUICK = OptimizerConfig(lr=1e-2, muon=False, warmup_steps=1)
USER, SAID = {"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat."}
OTHER = {"role": "assistant", "content": "A dog."}
SHOWN = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}


@pytest.fixture(autouse=True)
def _in_f32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the processor multiplies bf16: what is compared was sampled in f32."""
    monkeypatch.setattr(trainable, "compute_dtype", lambda _: torch.float32)


@pytest.fixture(scope="module")
def played(thinker: Thinker) -> list[Trajectory]:
    with rollouts(thinker, at_once=4, budget=BUDGET, keeps_messages=True) as playing:
        return whole(list(playing.play(jobs(5))))


@pytest.fixture(scope="module")
def start(thinker: Thinker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imitation") / "start"
    thinker.save_pretrained(path)
    return path


@pytest.fixture
def data(played: list[Trajectory], tmp_path: Path) -> Path:
    write_trajectories(tmp_path / "some.jsonl", played)
    return tmp_path / "some.jsonl"


def stage_of(start: Path, data: Path, **settings: Any) -> ImitationStage:
    config = ImitationConfig(**{"start": str(start), "data": str(data), "only_right": False, **settings})
    return ImitationStage(config, 0, "cpu")


@pytest.mark.parametrize("train_tower", [False, True], ids=["tower stays", "tower learns"])
def test_the_loss_of_who_wrote_it_is_minus_its_mean_log_probability(
    start: Path, data: Path, played: list[Trajectory], train_tower: bool
) -> None:
    stage = stage_of(start, data, conversations_per_batch=5, train_tower=train_tower)
    sampled_S = torch.cat([one.sampled_S for one in played])
    batch = stage.batch(0)
    assert len(batch.images) >= 5
    assert stage.weight(batch) == len(sampled_S)
    assert float(stage.loss(batch)[0].detach()) == pytest.approx(-float(sampled_S.mean()), abs=1e-5)


def test_the_same_of_nano_with_its_crops(tmp_path: Path) -> None:
    config = PolicyConfig(start=str(NANO), iterations=1, prompts=1, samples=1)
    nano = Thinker.from_pretrained(NANO, dtype=torch.float32)
    with rollouts(nano, at_once=1, budget=config.budget, keeps_messages=True) as playing:
        played = list(playing.play(jobs_of(config, 0, {})))
    write_trajectories(tmp_path / "some.jsonl", played)
    stage = stage_of(NANO, tmp_path / "some.jsonl", conversations_per_batch=1)
    sampled_S, batch = torch.cat([one.sampled_S for one in played]), stage.batch(0)
    assert len(batch.images) > len(played)
    assert stage.weight(batch) == len(sampled_S)
    assert float(stage.loss(batch)[0].detach()) == pytest.approx(-float(sampled_S.mean()), abs=1e-5)


def test_only_what_was_written_carries_a_gradient(start: Path, data: Path) -> None:
    stage, seen = stage_of(start, data, conversations_per_batch=1), list[Tensor]()
    batch = stage.batch(0)

    def keep(_: Any, __: Any, returned: tuple[Tensor, Tensor]) -> None:
        returned[0].retain_grad()
        seen.append(returned[0])

    with stage.thinker.decoder.register_forward_hook(keep):
        stage.loss(batch)[0].backward()
    before_written = torch.cat([batch.by_policy_T[1:], torch.zeros(1, dtype=torch.bool)])
    assert seen[0].grad is not None
    assert torch.equal(seen[0].grad.abs().sum(-1) > 0, before_written)
    assert 0 < before_written.sum() < len(batch) - 1


def test_right_and_whole_conversations_are_taken(played: list[Trajectory], tmp_path: Path) -> None:
    cut = replace(played[0], status="out_of_budget", sampled_S=played[0].sampled_S.clone())
    write_trajectories(tmp_path / "some.jsonl", [*played[:4], cut])
    right = [one.right for one in played[:4]]
    assert (sum(right), len(right)) == (2, 4)
    assert len(open_examples(tmp_path / "some.jsonl")) == 2
    assert len(open_examples(tmp_path / "some.jsonl", only_right=False)) == 4


def test_a_batch_is_as_many_of_one(start: Path, data: Path) -> None:
    three, one = (stage_of(start, data, conversations_per_batch=count) for count in (3, 1))
    for which in range(3):
        parts = [one.batch(3 * which + idx) for idx in range(3)]
        batch = three.batch(which)
        assert torch.equal(batch.token_ids, pack(parts).token_ids)
        mean = sum(float(one.loss(part)[0].detach()) * one.weight(part) for part in parts) / three.weight(batch)
        assert float(three.loss(batch)[0].detach()) == pytest.approx(mean, rel=1e-5)


def test_the_command_learns_and_goes_on_where_it_stopped(
    start: Path, data: Path, thinker: Thinker, tmp_path: Path
) -> None:
    settings = {
        "steps": 4, "log_every": 1, "num_workers": 0, "accumulate": 2, "optimizer": {"lr": 3e-3, "warmup_steps": 1},
        "stage": {"start": str(start), "data": str(data), "conversations_per_batch": 2},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["train", "sft", "--config", str(tmp_path / "run.yaml"), "--out"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert Thinker.from_pretrained(tmp_path / "whole").config == thinker.config
    assert main([*arguments, str(tmp_path / "cut"), "--max-minutes", "0"]) == 0
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 1
    assert main([*arguments, str(tmp_path / "cut"), "--resume"]) == 0
    wanted = load_file(tmp_path / "whole" / CHECKPOINT)
    for name, tensor in load_file(tmp_path / "cut" / CHECKPOINT).items():
        assert torch.equal(tensor, wanted[name]), name


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SHOWN, SAID]},
        {"messages": [USER, SAID]},
        {"prompt": [SHOWN], "completion": [SAID]},
        {"prompt": "What is it?", "completion": "A cat."},
        {"prompt": "What is it?", "completion": [USER, SAID]},
    ],
    ids=["messages", "no place", "prompt", "texts", "repeated"],
)
def test_rows_of_trl_are_imitated(row: dict[str, Any], start: Path, tmp_path: Path) -> None:
    noise(60, 50, 0).save(tmp_path / "cat.png")
    (tmp_path / "some.jsonl").write_text(json.dumps(row | {"images": ["cat.png"]}))
    stage = stage_of(start, tmp_path / "some.jsonl")
    assert isinstance(make_stage("sft", {"start": str(start), "data": str(tmp_path / "some.jsonl")}, 0), ImitationStage)
    batch, codec = stage._laid_out(0), stage.thinker.processor.codec
    assert len(batch.images) == 1
    assert batch.token_ids[batch.by_policy_T].tolist() == [*codec.encode("A cat."), codec.end_of_turn]


def test_one_picture_of_a_row_is_seen(start: Path, tmp_path: Path) -> None:
    noise(60, 50, 0).save(tmp_path / "cat.png")
    (tmp_path / "some.jsonl").write_text(json.dumps({"messages": [USER, SAID], "image": "cat.png"}))
    assert len(stage_of(start, tmp_path / "some.jsonl")._laid_out(0).images) == 1


def test_no_turn_of_a_prompt_is_imitated(start: Path, tmp_path: Path) -> None:
    row = {"prompt": [USER, OTHER, USER], "completion": [SAID, USER, OTHER]}
    (tmp_path / "some.jsonl").write_text(json.dumps(row))
    stage = stage_of(start, tmp_path / "some.jsonl")
    batch, codec = stage._laid_out(0), stage.thinker.processor.codec
    end = codec.end_of_turn
    assert batch.token_ids[batch.by_policy_T].tolist() == [*codec.encode("A cat."), end, *codec.encode("A dog."), end]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER]}, r"row 0: no turn of an assistant; wanted TRL's messages"),
        ({"prompt": [USER]}, r"row 0: 'completion'"),
        ({"messages": [USER, SAID], "images": ["none.png"]}, r"none\.png"),
    ],
)
def test_a_row_that_is_no_example_is_named(row: dict[str, Any], message: str, start: Path, tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text(json.dumps(row))
    with pytest.raises((InputError, ImageError), match=message):
        stage_of(start, tmp_path / "some.jsonl")


def test_what_has_nothing_to_imitate_is_refused(start: Path, played: list[Trajectory], tmp_path: Path) -> None:
    write_trajectories(tmp_path / "wrong.jsonl", played[1:2])
    with pytest.raises(InputError, match="no conversation to imitate; wanted one that ended with a right answer"):
        stage_of(start, tmp_path / "wrong.jsonl", only_right=True)
    with pytest.raises(ConfigError, match=r"stage\.conversations_per_batch is 0, wanted at least 1"):
        stage_of(start, tmp_path / "wrong.jsonl", conversations_per_batch=0)


def test_a_picture_that_is_gone_is_named(start: Path, data: Path) -> None:
    for picture in data.with_suffix(".images").iterdir():
        picture.unlink()
    with pytest.raises(ImageError, match=r"some\.jsonl, row 0: image [0-9a-f]+ is not in the store"):
        stage_of(start, data)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("lora", [LoraConfig(), LoraConfig(rank=2, alpha=8)], ids=["whole", "lora"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_published_shapes_learn(family: str, lora: LoraConfig, tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    FAMILIES[family](tmp_path / "start")
    thinker = Thinker.from_pretrained(tmp_path / "start")
    with rollouts(thinker, at_once=2, budget=BUDGET, keeps_messages=True) as playing:
        played = whole(list(playing.play(jobs(4))))
    write_trajectories(tmp_path / "some.jsonl", played)
    stage = stage_of(tmp_path / "start", tmp_path / "some.jsonl", conversations_per_batch=4, lora=lora)
    sampled_S = torch.cat([one.sampled_S for one in played])
    loss = float(stage.loss(stage.batch(0))[0].detach())
    assert loss == pytest.approx(-float(sampled_S.mean()), abs=1e-4)
    assert train(stage, TrainConfig(steps=3, num_workers=0, optimizer=QUICK), tmp_path / "out") == 3
    assert float(stage.loss(stage.batch(0))[0].detach()) < loss
    names = {name for name, parameter in stage.module.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("vision.") for name in names)
    assert all("lora_" in name for name in names) == bool(lora.rank)
    before, after = (Thinker.from_pretrained(tmp_path / name, dtype=torch.bfloat16) for name in ("start", "out"))
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    learned = {name for (name, old), new in pairs if not torch.equal(old, new)}
    assert learned
    assert all(name.startswith("decoder.") for name in learned)


def test_ids_of_another_tokenizer_are_refused(start: Path, data: Path, tmp_path: Path) -> None:
    """They would be laid out as they are, and be some other text."""
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    turn = next(message for message in lines[0]["messages"] if message["role"] == "assistant")
    turn["token_ids"] = [index + 1 for index in turn["token_ids"]]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"row 0: a turn says .*, and its token_ids say .*; wanted conversations of"):
        stage_of(start, data)


def test_a_row_that_does_not_fit_is_found_before_the_tower_learns(start: Path, tmp_path: Path) -> None:
    good = {"messages": [USER, SAID]}
    rows = [good, good | {"images": ["none.png"]}, {"messages": [USER | {"role": "gpt"}, SAID]}]
    for row, said in ((1, r"there is no picture .*none\.png"), (2, "message role is 'gpt', wanted one of")):
        (tmp_path / "some.jsonl").write_text("".join(json.dumps(rows[idx]) + "\n" for idx in (0, row)))
        with pytest.raises(InputError, match=rf"some\.jsonl, row 1: {said}"):
            stage_of(start, tmp_path / "some.jsonl", train_tower=True)
