"""The comparison of playing and learning runs, here at a small size, and gives the rows that it promises."""

from importlib.util import find_spec

import pytest

from foveate.benchmarks import measure, rl


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own
def test_every_row_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    small = rl.SHAPE["vision_config"] | {"depth": 1, "hidden_size": 64, "intermediate_size": 96, "out_hidden_size": 64}
    shape = rl.SHAPE | {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": small | {"fullatt_block_indexes": [0]},
    }  # fmt: skip
    for name, value in {"PROMPTS": 1, "SAMPLES": 2, "AT_ONCE": 2, "PAIRS": 2, "SIDE_PX": 84, "SHAPE": shape}.items():
        monkeypatch.setattr(rl, name, value)
    rows = list(measure.rows(["rl"], 0.01))
    played = [("rollout", "one_at_a_time"), ("pmd_iteration", "one_at_a_time")]
    beside_trl = [("dpo_step", "trl"), ("grpo_step", "trl")] if find_spec("trl") else []
    assert [(row["op"], row["peer"]) for row in rows] == played + beside_trl
    assert all(row["ours_ms"] > 0 and row["peer_ms"] > 0 for row in rows)  # type: ignore[operator]
