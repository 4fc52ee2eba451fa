"""The thinker computes with our operations, in each family, in each layer, forward, backward and token by token."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kimi
import pytest
import qwen
import torch
from needs import needs_native
from pictures import noise
from torch.utils._python_dispatch import TorchDispatchMode

from foveate.models import Thinker, nano_path

MESSAGES = [
    {"role": "user", "content": [{"type": "image", "image": noise(200, 160)}, {"type": "text", "text": "What?"}]}
]
FAMILIES: dict[str, Callable[[Path], object] | None] = {
    "nano": None,
    "qwen2_5_vl": lambda folder: qwen.save("qwen2_5_vl", folder),
    "qwen3_vl_moe": lambda folder: qwen.save("qwen3_vl_moe", folder),
    "kimi": kimi.save,
}
EVERYWHERE = {"rms_norm", "add_rms_norm", "rotate"}


class Counting(TorchDispatchMode):
    """How often each of our operations runs inside, without their prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.names = Counter[str]()

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        library, _, name = operation.name().partition("::")
        if library == "foveate":
            self.names[name] += 1
        return operation(*args, **(kwargs or {}))


@pytest.fixture(scope="module", params=FAMILIES)
def thinker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Thinker:
    save, folder = FAMILIES[request.param], tmp_path_factory.mktemp(request.param)
    if save is not None:
        save(folder)
    return Thinker.from_pretrained(folder if save else nano_path(), dtype=torch.float32)


def layers(thinker: Thinker) -> tuple[int, int, int]:
    """Of the tower, of the decoder, and those of the latter that have experts."""
    names = [name for name, _ in thinker.named_modules()]
    mixtures = sum(type(module).__name__ == "MoE" for module in thinker.modules())
    return (
        sum(name.startswith("vision.blocks.") and name.count(".") == 2 for name in names),
        sum(name.startswith("decoder.blocks.") and name.count(".") == 2 for name in names),
        mixtures,
    )


@needs_native
def test_learning(thinker: Thinker) -> None:
    sees, thinks, mixtures = layers(thinker)
    thinker.requires_grad_(True)
    with Counting() as ran:
        thinker(thinker.processor(MESSAGES)).square().mean().backward()
    thinker.requires_grad_(False)
    thinker.zero_grad(set_to_none=True)
    names = ran.names
    assert names["window_attention"] == names["window_attention_backward"] == sees > 0
    assert names["packed_attention"] == names["packed_attention_backward"] == thinks > 0
    assert names["moe_route"] == names["moe_route_backward"] == names["moe_order"] == mixtures
    assert {*EVERYWHERE, "silu_mul", "rms_norm_backward", "silu_mul_backward"} <= names.keys()


@needs_native
def test_speaking(thinker: Thinker) -> None:
    sees, thinks, mixtures = layers(thinker)
    with Counting() as ran:
        assert len(thinker.generate(MESSAGES, max_new_tokens=3).token_ids) == 3
    names = ran.names
    assert (names["window_attention"], names["packed_attention"]) == (sees, thinks)
    assert names["decode_attention"] == 2 * thinks
    assert names["moe_experts"] == names["moe_route"] == 3 * mixtures
    assert {*EVERYWHERE, "linear"} <= names.keys()
