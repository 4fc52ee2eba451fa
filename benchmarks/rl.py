"""Claims: conversations many at once take less time than one by one, and steps on them less than those of TRL.

nano plays, with Ray also in as many processes as there are threads. Beside TRL a small Qwen2.5-VL of random weights
learns from the same pictures, prompts and answers, in the same dtype. Towers stay as they are on both sides. Ours keeps
what it made of a picture and what the reference says of an answer; TRL makes both anew in each step (it refuses to keep
them for pictures). Sampling is no part of a GRPO step here.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foveate.benchmarks.checkpoints import QWEN, published
from foveate.benchmarks.measure import Case, Run
from foveate.models.checkpoint import nano_path
from foveate.models.seen import SeenImages
from foveate.models.thinker import Thinker
from foveate.ops import compute_dtype
from foveate.rl.learner import Learner, Said
from foveate.rl.logprobs import written_logprobs
from foveate.rl.optimizer import MasterOptimizer
from foveate.rl.players import jobs_of, players
from foveate.rl.policy_config import PolicyConfig, PolicyOptimizer, RayConfig
from foveate.rl.preference import PreferenceConfig, PreferenceStage
from foveate.rl.preferences import Preferences, open_preferences
from foveate.rl.rollout import Job, Rollouts, Trajectory, rollouts
from foveate.rl.suite import Item
from foveate.rl.team import ALONE
from foveate.rl.trainable import make_trainable
from foveate.rl.trl_rows import SIDES

PROMPTS, SAMPLES = 4, 8
AT_ONCE = 32
PAIRS = 4
"""Of a step of DPO; a step of GRPO has SAMPLES of one prompt."""
SIDE_PX, ANSWER_WORDS = 448, 24
QUESTION = "What is the total of all prices on the receipt with the red star?"
WORDS = ("the", "total", "is", "largest", "receipt", "12.50", "price", "name", "under", "column")
SHAPE: dict[str, Any] = QWEN | {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 1200,
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 4, "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
    "vision_config": QWEN["vision_config"] | {
        "depth": 6, "hidden_size": 256, "intermediate_size": 1024, "num_heads": 4, "out_hidden_size": 256,
        "fullatt_block_indexes": [5],
    },
}  # fmt: skip
OPTIMIZER = PolicyOptimizer(lr=1e-5)


def cases() -> Iterator[Case]:
    """Playing and learning; the steps of TRL where it is installed."""
    yield from _played()
    if find_spec("trl") is not None and find_spec("datasets") is not None:
        yield from _beside_trl()


def _played() -> Iterator[Case]:
    """Conversations of nano, and iterations of PMD with them."""
    config = PolicyConfig(start=str(nano_path()), iterations=1, prompts=PROMPTS, samples=SAMPLES, optimizer=OPTIMIZER)
    thinker = Thinker.from_pretrained(config.start, dtype=compute_dtype())
    make_trainable(thinker, config.lora, tower=False)
    learner, jobs = Learner("pmd", config, Said(thinker)), list(jobs_of(config, 0, {}))
    shape, dtype = f"nano, {PROMPTS} questions x {SAMPLES}", _name(compute_dtype())
    with ExitStack() as stack:
        many, one = (stack.enter_context(rollouts(thinker, at_once=count)) for count in (AT_ONCE, 1))
        yield Case(
            op="rollout", shape=f"{shape}, {AT_ONCE} at once; one conversation", dtype=dtype, repeats=len(jobs), sets=1,
            ours=_playing(many, jobs), peers={"one_at_a_time": _playing(one, jobs)},
        )  # fmt: skip
        yield Case(
            op="pmd_iteration", shape=f"{shape}, {AT_ONCE} at once", dtype=dtype, sets=1,
            ours=_iterating(learner, many, jobs), peers={"one_at_a_time": _iterating(learner, one, jobs)},
        )  # fmt: skip
        if find_spec("ray") is not None:
            actors = torch.get_num_threads()
            config = replace(config, at_once=AT_ONCE, ray=RayConfig(actors=actors))
            far = stack.enter_context(players(config, thinker, ALONE))
            far.renew(thinker)  # the iterations before have moved it
            yield Case(
                op="rollout", shape=f"{shape}, in {actors} actors of Ray; one conversation", dtype=dtype,
                repeats=len(jobs), sets=1, ours=lambda _: far.play(0, {}), peers={"one_at_a_time": _playing(one, jobs)},
            )  # fmt: skip


def _playing(stage: Rollouts, jobs: list[Job]) -> Callable[[int], list[Trajectory]]:
    def play(_: int) -> list[Trajectory]:
        stage.reasoner.forget(tower=True)
        return list(stage.play(jobs))

    return play


def _iterating(learner: Learner, stage: Rollouts, jobs: list[Job]) -> Run:
    play = _playing(stage, jobs)

    def iterate(number: int) -> dict[str, float]:
        trajectories = play(number)
        return learner.learn(0, trajectories, stage.reasoner.engine.seen)

    return iterate


@contextmanager
def _small_qwen() -> Iterator[tuple[Path, Path]]:
    """A checkpoint folder and a file of preferences in TRL's form."""
    with published(SHAPE) as folder, TemporaryDirectory() as name:
        yield folder, write_preferences(Path(name), 2 * PAIRS)


def write_preferences(folder: Path, count: int) -> Path:
    """Rows with a picture of noise each, and answers of some fifty tokens."""
    rng, lines = np.random.default_rng(0), []
    for idx in range(count):
        pixels = rng.integers(0, 255, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{idx}.png")
        chosen, rejected = (" ".join(rng.choice(WORDS, ANSWER_WORDS)) for _ in range(2))
        row = {"prompt": [{"role": "user", "content": QUESTION}], "images": [f"{idx}.png"]}
        row |= {
            side: [{"role": "assistant", "content": text}] for side, text in zip(SIDES, (chosen, rejected), strict=True)
        }
        lines.append(json.dumps(row))
    (folder / "preferences.jsonl").write_text("\n".join(lines))
    return folder / "preferences.jsonl"


def _beside_trl() -> Iterator[Case]:
    """Steps on a small checkpoint, ours and TRL's in one dtype."""
    from foveate.benchmarks.trl_peer import dpo_step, grpo_step

    dtype = compute_dtype()
    with _small_qwen() as (folder, data):
        yield Case(
            op="dpo_step", shape=f"small Qwen2.5-VL, {PAIRS} pairs with a picture of {SIDE_PX} px", dtype=_name(dtype),
            ours=_dpo(folder, data), peers={"trl": dpo_step(folder, data, PAIRS, dtype)},
        )  # fmt: skip
        thinker = Thinker.from_pretrained(folder, dtype=dtype)
        sampled = _sampled(thinker, open_preferences(data))
        transcripts = [trajectory.transcript for trajectory in sampled]
        yield Case(
            op="grpo_step",
            shape=f"small Qwen2.5-VL, {len(sampled)} samples of a prompt with a picture of {SIDE_PX} px",
            dtype=_name(dtype),
            sets=1,
            ours=_grpo(folder, thinker, sampled), peers={"trl": grpo_step(folder, transcripts, dtype)},
        )  # fmt: skip


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dpo(folder: Path, data: Path) -> Callable[[int], Tensor]:
    """Steps on pairs of a file; each gives its loss. The stage computes in `compute_dtype()`."""
    stage = PreferenceStage(PreferenceConfig(start=str(folder), data=str(data), pairs_per_batch=PAIRS), 0, "cpu")
    optimizer = MasterOptimizer(stage.module, OPTIMIZER)

    def step(number: int) -> Tensor:
        loss, _ = stage.loss(stage.batch(number))
        loss.backward()
        optimizer.step(OPTIMIZER.lr)
        return loss.detach()

    return step


def _grpo(folder: Path, thinker: Thinker, sampled: list[Trajectory]) -> Callable[[int], dict[str, float]]:
    """Steps of the thinker on samples of one prompt; each gives its metrics."""
    config = PolicyConfig(start=str(folder), iterations=1, updates=1, optimizer=OPTIMIZER)
    make_trainable(thinker, config.lora, tower=False)
    learner, see = Learner("grpo", config, Said(thinker)), SeenImages(thinker)
    return lambda _: learner.learn(0, sampled, see)


def _sampled(thinker: Thinker, preferences: Preferences) -> list[Trajectory]:
    """Samples of one prompt, every second one right, as rollouts would leave them."""
    prompt, trajectories = preferences[0].prompt, []
    item = Item(id="", family="", question=QUESTION, answer=SIDES[0], picture=Path())
    for idx in range(SAMPLES // 2):
        for side, said in zip(SIDES, preferences[idx][1:], strict=True):
            transcript = thinker.processor([*prompt, *said])
            with torch.no_grad():
                sampled_S = written_logprobs(thinker, transcript)
            job = Job(item=item, group=0, seed=0)
            trajectories.append(
                Trajectory(
                    job=job, transcript=transcript, sampled_S=sampled_S, answer=side, status="answered", tool_calls=0
                )
            )
    return trajectories
