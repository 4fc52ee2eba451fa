"""The comparison of whole checkpoints runs, here at a size that takes seconds, and gives the rows that it promises."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from foveate.benchmarks import checkpoint, measure
from foveate.benchmarks.checkpoints import KIMI, QWEN, published

TINY = {
    "vocab_size": 1200, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
TOWER = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 64}


def tiny_qwen() -> dict[str, Any]:
    qwen = copy.deepcopy(QWEN) | TINY | {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    qwen["vision_config"] |= TOWER | {"fullatt_block_indexes": [1]}
    return qwen


def read_bytes(path: Path) -> int:
    """What this process has read of a file that it maps."""
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    of_file = [text for text in mappings if text.partition("\n")[0].endswith(str(path))]
    return sum(1024 * int(re.findall(r"^Rss: +(\d+) kB", text, re.MULTILINE)[0]) for text in of_file)


def test_every_row_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    qwen, kimi = tiny_qwen(), copy.deepcopy(KIMI)
    experts = {"n_routed_experts": 8, "moe_intermediate_size": 32, "kv_lora_rank": 32, "num_key_value_heads": 4}
    kimi["text_config"] |= TINY | experts
    kimi["vision_config"] |= {
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
    }
    for name, value in {"QWEN": qwen, "KIMI": kimi, "SIDES_PX": (56, 140), "LONG": 700, "CONTEXTS": (90,)}.items():
        monkeypatch.setattr(checkpoint, name, value)
    rows = list(measure.rows(["checkpoint"], 0.01))
    found = [(row["op"], row["peer"]) for row in rows]
    assert found == [
        ("load", "transformers"), ("load", "read"), ("prefill", "transformers"), ("prefill", "transformers"),
        ("decode", "transformers"), ("decode_int8", "transformers"), ("prefill", "transformers"),
        ("decode_8k", "transformers"), ("decode", "transformers"),
    ]  # fmt: skip
    assert [row["size"] for row in rows if row["size"] is not None] == [56**2, 140**2, 700, 90]
    assert all(row["ours_ms"] > 0 and row["peer_ms"] > 0 for row in rows)  # type: ignore[operator]


@pytest.mark.parametrize("who", ["ours", "transformers"])
def test_what_is_loaded_has_been_read(who: str) -> None:
    with published(tiny_qwen() | {"vocab_size": 1 << 17}) as folder:
        case, weights = checkpoint._load(folder), folder / "model.safetensors"
        loaded = (case.ours if who == "ours" else case.peers[who])(0)
        assert read_bytes(weights) > 0.95 * weights.stat().st_size
        del loaded
