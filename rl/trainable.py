"""Which weights of a policy learn: all of the decoder or adapters of low rank beside them; the tower too, or not.

Adapters (LoRA, Hu et al., arXiv 2106.09685) are peft's, beside the linear layers of the decoder's blocks; routers,
experts and what is multiplied with a latent stay as they are. A checkpoint holds the sums, so it loads like any other,
rounded to bf16. What is added then loses what is below half a step of bf16: added to 10% of a weight 2% is lost, to 1%
17%, to 0.1% 82% (tests/rl/test_trainable.py). Beside it lies what the adapters are by themselves.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from foveate.extras import from_extra
from foveate.models.device import device_of, put_on
from foveate.models.linear import Linear
from foveate.models.moe import MoE
from foveate.models.thinker import Thinker
from foveate.ops import compute_dtype
from foveate.rl.limits import ABOVE_ZERO, NOT_NEGATIVE, check
from foveate.rl.writing import made, replaced, told

ADAPTER = "default"
"""peft's name for the only one."""
ADAPTERS, ADAPTER_MODEL = "adapters", "adapter_model.safetensors"
"""A folder in that of a checkpoint, and peft's name of a file in it."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters of low rank."""

    rank: int = 0
    """0 for none: then the weights themselves learn."""
    alpha: int = 32
    """What an adapter adds counts alpha / rank times."""

    def __post_init__(self) -> None:
        check(self, "lora.", rank=NOT_NEGATIVE, alpha=ABOVE_ZERO)


def open_policy(start: str | Path, device: str, *, waits: bool = False) -> Thinker:
    """The thinker of a checkpoint folder on a device, in bf16 where that multiplies it fast, else in f32.

    waits: whether it stays on the processor for now.

    Raises ConfigError for a device that torch cannot use, and what `Thinker.from_pretrained` does.
    """
    place = device_of(device)
    thinker = Thinker.from_pretrained(start, dtype=compute_dtype(place))
    if not waits:
        put_on(thinker, place)
    return thinker


def make_trainable(thinker: Thinker, lora: LoraConfig, *, tower: bool, recompute: bool = False) -> None:
    """Let the decoder's weights learn or, with a rank, adapters beside them; the tower's too if wanted.

    recompute: whether its blocks are computed again for the gradient, which takes a third more time and far less room.

    Raises ConfigError when adapters are wanted and peft is not installed.
    """
    thinker.requires_grad_(True)
    for module in thinker.modules():
        if isinstance(module, MoE) and module.config.scoring == "sigmoid":
            module.correction_bias.requires_grad_(False)  # chooses experts, which has no gradient
    if lora.rank:
        _add_adapters(thinker, lora)
    thinker.vision.requires_grad_(tower)
    thinker.decoder.recomputes = recompute
    thinker.config = replace(thinker.config, repetition_penalty=1.0)  # what learns is what is drawn without it


def whole_weights(thinker: Thinker) -> dict[str, Tensor]:
    """The weights of a thinker by their names, each with what its adapter adds."""
    weights = {}
    for name, parameter in thinker.named_parameters():
        owner, _, leaf = name.rpartition(".base_layer.")
        if "lora_" in name:
            continue
        if not owner:
            weights[name] = parameter.detach()
        elif leaf == "weight":
            added = thinker.get_submodule(owner).get_delta_weight(ADAPTER)  # type: ignore[operator]
            total = (parameter.detach().float() + added.detach().float()).to(parameter.dtype)
            weights[f"{owner}.{leaf}"] = total.cpu()  # all of them would be a second model on a GPU
        else:
            weights[f"{owner}.{leaf}"] = parameter.detach()
    return weights


def export(thinker: Thinker, folder: Path) -> None:
    """Write a checkpoint folder, in bf16, that `foveate ask --model` takes; adapters by themselves in a folder in it.

    Those are in peft's form, for a thinker of the weights that they learned beside. Raises CheckpointError when there
    is no room.
    """
    thinker.save_pretrained(folder, dtype=torch.bfloat16, weights=whole_weights(thinker))
    named = {name: p.detach().contiguous() for name, p in thinker.named_parameters() if "lora_" in name}
    if named:
        tensors = {f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": tensor for name, tensor in named.items()}
        beside = made(folder / ADAPTERS)
        with replaced(beside / ADAPTER_MODEL) as fresh:
            save_file(tensors, fresh)
        with told(beside):
            thinker.peft_config[ADAPTER].save_pretrained(str(beside))  # type: ignore[index,union-attr]


def _add_adapters(thinker: Thinker, lora: LoraConfig) -> None:
    with from_extra("train", f"peft, which lora.rank of {lora.rank} needs,"):
        import peft
    blocks = thinker.decoder.blocks.named_modules(prefix="decoder.blocks")
    names = [name for name, module in blocks if isinstance(module, Linear)]
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names, bias="none")
    thinker.requires_grad_(False)
    with torch.random.fork_rng([]):  # adapters are made on the processor
        torch.default_generator.manual_seed(0)  # all processes of a team, and all runs, begin with the same adapters
        peft.inject_adapter_in_model(config, thinker, ADAPTER)
