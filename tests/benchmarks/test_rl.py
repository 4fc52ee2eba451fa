"""The comparison of playing and learning runs, here at a small size, and has the rows that it promises."""

from importlib.util import find_spec

import pytest

from foveate.benchmarks import rl


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own
def test_everybody_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    small = rl.SHAPE["vision_config"] | {"depth": 1, "hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64}
    shape = rl.SHAPE | {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": small | {"fullatt_block_indexes": [0]},
    }  # fmt: skip
    for name, value in {"PROMPTS": 1, "SAMPLES": 2, "AT_ONCE": 2, "PAIRS": 2, "SIDE_PX": 84, "SHAPE": shape}.items():
        monkeypatch.setattr(rl, name, value)
    ran = []
    for case in rl.cases():
        case.ours(0)
        for peer, run in case.peers.items():
            run(0)
            ran.append((case.op, peer))
    played = [(op, "one_at_a_time") for op in ("rollout", "pmd_iteration", "rollout")]
    beside_trl = [("dpo_step", "trl"), ("grpo_step", "trl")] if find_spec("trl") else []
    assert ran == played + beside_trl
