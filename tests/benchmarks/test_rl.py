"""The comparison of playing and learning runs, here at a small size, and has the rows that it promises."""

import math

import pytest

from foveate.benchmarks import rl
from foveate.models.thinker import Thinker
from foveate.ops import compute_dtype
from foveate.rl.preferences import open_preferences


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few questions, pairs and samples, and a checkpoint of two layers."""
    small = rl.SHAPE["vision_config"] | {"depth": 1, "hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64}
    shape = rl.SHAPE | {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": small | {"fullatt_block_indexes": [0]},
    }  # fmt: skip
    for name, value in {"PROMPTS": 1, "SAMPLES": 2, "AT_ONCE": 2, "PAIRS": 2, "SIDE_PX": 84, "SHAPE": shape}.items():
        monkeypatch.setattr(rl, name, value)


def test_everybody_plays() -> None:
    ran = []
    for case in rl._played():
        case.ours(0)
        for peer, run in case.peers.items():
            run(0)
            ran.append((case.op, peer))
    assert ran == [(op, "one_at_a_time") for op in ("rollout", "pmd_iteration", "rollout")]


def test_our_steps_of_dpo_learn() -> None:
    with rl._small_qwen() as (folder, data):
        step = rl._dpo(folder, data)
        losses = [float(step(0)) for _ in range(3)]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-2)
    assert losses[-1] < losses[0]


def test_our_steps_of_grpo_learn() -> None:
    with rl._small_qwen() as (folder, data):
        thinker = Thinker.from_pretrained(folder, dtype=compute_dtype())
        before = [parameter.detach().clone() for parameter in thinker.decoder.parameters()]
        step = rl._grpo(folder, thinker, rl._sampled(thinker, open_preferences(data)))
        assert all(map(math.isfinite, step(0).values()))
    assert any((old != new).any() for old, new in zip(before, thinker.decoder.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own
def test_beside_trl() -> None:
    pytest.importorskip("trl", reason="TRL is not installed")
    dtype, ran = str(compute_dtype()).removeprefix("torch."), []
    for case in rl._beside_trl():
        case.ours(0)
        case.peers["trl"](0)
        ran.append((case.op, case.dtype))
    assert ran == [("dpo_step", dtype), ("grpo_step", dtype)]
