"""Which weights of a policy learn: all of the decoder or adapters of low rank beside them; the tower too, or not.

Adapters (LoRA, Hu et al., arXiv 2106.09685) are peft's, beside the linear layers of the decoder's blocks; routers,
experts and what is multiplied with a latent stay as they are. A checkpoint holds the sums, so it loads like any other.
"""

from dataclasses import dataclass

from torch import Tensor

from foveate.extras import from_extra
from foveate.models.linear import Linear
from foveate.models.moe import MoE
from foveate.models.thinker import Thinker

ADAPTER = "default"
"""peft's name for the only one."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters of low rank."""

    rank: int = 0
    """0 for none: then the weights themselves learn."""
    alpha: int = 32
    """What an adapter adds counts alpha / rank times."""


def make_trainable(thinker: Thinker, lora: LoraConfig, *, tower: bool) -> None:
    """Let the decoder's weights learn or, with a rank, adapters beside them; the tower's too if wanted.

    Raises ConfigError when adapters are wanted and peft is not installed.
    """
    thinker.requires_grad_(True)
    for module in thinker.modules():
        if isinstance(module, MoE) and module.config.scoring == "sigmoid":
            module.correction_bias.requires_grad_(False)  # chooses experts, which has no gradient
    if lora.rank:
        _add_adapters(thinker, lora)
    thinker.vision.requires_grad_(tower)


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
            weights[f"{owner}.{leaf}"] = (parameter.detach().float() + added.detach().float()).to(parameter.dtype)
        else:
            weights[f"{owner}.{leaf}"] = parameter.detach()
    return weights


def _add_adapters(thinker: Thinker, lora: LoraConfig) -> None:
    with from_extra("train", f"peft, which lora.rank of {lora.rank} needs,"):
        import peft
    blocks = thinker.decoder.blocks.named_modules(prefix="decoder.blocks")
    names = [name for name, module in blocks if isinstance(module, Linear)]
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names, bias="none")
    thinker.requires_grad_(False)
    peft.inject_adapter_in_model(config, thinker, ADAPTER)
