"""What runs on a device that is not the processor says and learns what the processor does.

Run by test_other_device.py in a process of its own, since torch lets go of no device: `$OTHER_DEVICE` is the extension
built of other_device.cpp, whose tensors the processor's refuse, as a GPU's do.
"""

import importlib.util
import json
import math
import os
import types
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import families
import kimi
import pytest
import qwen
import torch
from pictures import noise
from played import BUDGET, LONG, jobs, unsure, whole

from foveate.agent.agent import Agent
from foveate.cli import main
from foveate.models import Thinker, ThinkerReasoner
from foveate.models.config import TINY
from foveate.models.load import load_reasoner
from foveate.models.tokenizer import make_tokenizer
from foveate.ops import native
from foveate.rl.imitation import ImitationConfig, ImitationStage
from foveate.rl.journal import METRICS
from foveate.rl.length import LengthPenalty
from foveate.rl.policy import train_policy
from foveate.rl.policy_config import PolicyConfig, PolicyOptimizer
from foveate.rl.preference import PreferenceConfig, PreferenceStage
from foveate.rl.rollout import rollouts
from foveate.rl.sampler import SamplerConfig
from foveate.rl.stages import make_stage
from foveate.rl.train import Stage, TrainConfig, train
from foveate.rl.trainable import LoraConfig
from foveate.rl.trajectory import write_trajectories

OTHER = "other"
FOLDERS: dict[str, Any] = {
    "kimi_vl": kimi.save,
    "qwen2_5_vl": lambda folder: qwen.save("qwen2_5_vl", folder),
    "qwen3_vl_moe": lambda folder: qwen.save("qwen3_vl_moe", folder),
}

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="session", autouse=True)
def _device() -> None:
    """Make torch know the device by its name; computed is in f32, where our kernels and torch's own agree closely."""
    native._FEATURES = ()
    spec = importlib.util.spec_from_file_location("other_device", os.environ["OTHER_DEVICE"])
    assert spec is not None
    assert spec.loader is not None
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    extension.take_part()
    torch.utils.rename_privateuse1_backend(OTHER)
    module: Any = types.ModuleType(f"torch.{OTHER}")
    module.is_available, module.device_count, module.current_device = (lambda: True), (lambda: 1), (lambda: 0)
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]
    module._is_in_bad_fork, module.manual_seed_all = (lambda: False), (lambda _seed: None)
    module.get_rng_state = lambda _device=0: torch.get_rng_state()
    module.set_rng_state = lambda _state, _device=0: None
    torch._register_device_module(OTHER, module)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)


def moved(thinker: Thinker) -> Thinker:
    return deepcopy(thinker).to(OTHER)


def rows_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def test_the_processor_refuses_its_tensors() -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2) + torch.ones(2, device=OTHER)


@pytest.mark.parametrize("name", ["tiny", *FOLDERS])
def test_a_thinker_says_the_same(
    name: str, thinker: Thinker, conversation: list[dict[str, Any]], tmp_path: Path
) -> None:
    if name != "tiny":
        FOLDERS[name](tmp_path)
        thinker = Thinker.from_pretrained(tmp_path)
    there = moved(thinker)
    inputs = thinker.processor(conversation)
    logits_TV = there(inputs)
    assert logits_TV.device.type == OTHER
    torch.testing.assert_close(logits_TV.cpu(), thinker(inputs), atol=1e-4, rtol=1e-4)
    for temperature in (0.0, 1.0):
        samples = [
            one.generate(conversation, max_new_tokens=12, temperature=temperature, seed=3) for one in (thinker, there)
        ]
        assert samples[0].token_ids == samples[1].token_ids
        assert samples[1].logprobs == pytest.approx(samples[0].logprobs, abs=1e-4)


def test_an_agent_and_the_command_line_answer_there(
    thinker: Thinker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thinker.save_pretrained(tmp_path / "model")
    noise(300, 200).save(tmp_path / "picture.png")
    answers = []
    for device in ("cpu", OTHER):
        with Agent(tmp_path / "model", budget=BUDGET, device=device) as agent:
            answers.append(agent.ask("What is it?", [tmp_path / "picture.png"]))
    assert [step.text for step in answers[0].steps] == [step.text for step in answers[1].steps]
    reasoner = load_reasoner(tmp_path / "model", OTHER)
    assert isinstance(reasoner, ThinkerReasoner)
    assert {parameter.device.type for parameter in reasoner.thinker.parameters()} == {OTHER}
    command = ["ask", str(tmp_path / "picture.png"), "What is it?", "--json", "--model", str(tmp_path / "model")]
    main([*command, "--max-tokens", "40", "--max-turns", "3", "--device", OTHER])
    told = json.loads(capsys.readouterr().out)
    assert [step["text"] for step in told["steps"]] == [step.text for step in answers[0].steps]


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_transformers_says_the_same(family: str, conversation: list[dict[str, Any]], tmp_path: Path) -> None:
    families.save(family, tmp_path)
    said = []
    for device in ("cpu", OTHER):
        reasoner = load_reasoner(f"transformers:{tmp_path}", device)
        said.append([
            reasoner.sample(conversation, max_new_tokens=6, temperature=temperature, seed=5).token_ids
            for temperature in (0.0, 1.0)
        ])  # fmt: skip
    assert said[0] == said[1]


def test_a_policy_learns_the_same(thinker: Thinker, tmp_path: Path) -> None:
    """Adapters and the tower, in blocks that are computed again."""
    unsure(thinker).save_pretrained(tmp_path / "start")
    rows = []
    for device in ("cpu", OTHER):
        config = PolicyConfig(
            start=str(tmp_path / "start"), iterations=2, prompts=2, samples=4, at_once=4, updates=1, device=device,
            sampler=SamplerConfig(families=("label",)), length=LengthPenalty(warmup_iterations=0),
            train_tower=True, lora=LoraConfig(rank=2), recompute=True, optimizer=PolicyOptimizer(lr=1e-3), **LONG,
        )  # fmt: skip
        assert train_policy("pmd", config, tmp_path / device) == 2
        rows.append(rows_of(tmp_path / device))
    first, second = (some[0] | {"seconds": 0} for some in rows)  # later ones of another policy: torch unties there
    assert second["grad_norm"] > 0
    assert second == pytest.approx(first, rel=1e-2, abs=1e-3)
    assert all(math.isfinite(number) for number in rows[1][1].values())


@pytest.mark.parametrize(("name", "objective"), [("qwen2_5_vl", "dpo"), ("qwen2_5_vl", "sft"), ("kimi_vl", "dpo")])
def test_what_learns_from_a_file_learns_the_same(name: str, objective: str, tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    FOLDERS[name](tmp_path / "start")
    with rollouts(
        Thinker.from_pretrained(tmp_path / "start"), at_once=2, budget=BUDGET, keeps_messages=True
    ) as playing:
        write_trajectories(tmp_path / "some.jsonl", whole(list(playing.play(jobs(4)))))
    told = {"start": str(tmp_path / "start"), "data": str(tmp_path / "some.jsonl"), "train_tower": name == "kimi_vl"}
    rows = []
    for device in ("cpu", OTHER):
        stage: Stage = (
            ImitationStage(ImitationConfig(**told), 0, device)
            if objective == "sft"
            else PreferenceStage(PreferenceConfig(**told), 0, device)
        )
        loop = TrainConfig(steps=3, num_workers=0, log_every=1, device=device, optimizer=PolicyOptimizer(lr=1e-3))
        assert train(stage, loop, tmp_path / device) == 3
        rows.append(rows_of(tmp_path / device))
    for here, there in zip(*rows, strict=True):
        assert there["loss"] == pytest.approx(here["loss"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["tower", "sft"])
def test_a_stage_learns_the_same(tmp_path: Path, name: str) -> None:
    tokenizer = str(tmp_path / "tokenizer.json")
    make_tokenizer(["zoom", "image", "box"], TINY.decoder.vocab_size).save(tokenizer)
    values: dict[str, Any] = {"preset": "tiny", "tokenizer": tokenizer}
    if name == "sft":
        values |= {"tokens_per_batch": 300, "gaze_coef": 0.5, "brought_coef": 0.5, "dense_coef": 0.5}
    losses, loop = [], TrainConfig(steps=2, num_workers=0, log_every=1)
    for device in ("cpu", OTHER):
        stage = make_stage(name, values, 0, device)
        assert train(stage, replace(loop, device=device), tmp_path / device) == 2
        losses.append([row["loss"] for row in rows_of(tmp_path / device)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
