"""AdamW on f32 master weights of a bf16 model.

The model computes in bf16; small updates would vanish there, so the optimizer steps an f32 copy of every parameter and
writes it back rounded. Matrices decay, vectors do not.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Learning rate and its schedule."""

    lr: float = 1e-3
    warmup_steps: int = 100
    final_lr_fraction: float = 0.05
    """The cosine ends at this fraction of lr."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Linear warm-up, then a cosine to final_lr_fraction of the peak."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    floor = config.final_lr_fraction
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


class MasterAdamW:
    """Steps f32 copies of the trainable parameters of `module`."""

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.masters = {name: p.detach().float().clone() for name, p in self.parameters.items()}
        decayed = [m for name, m in self.masters.items() if m.dim() >= 2 and "positions" not in name]
        kept = [m for name, m in self.masters.items() if m.dim() < 2 or "positions" in name]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)

    def step(self, lr: float) -> float:
        """One update from the gradients of the module; returns the gradient norm before clipping.

        A gradient that is not finite changes nothing (the norm returned tells).
        """
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            master.grad = torch.zeros_like(master) if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        norm = float(nn.utils.clip_grad_norm_(list(self.masters.values()), self.config.clip_norm))
        if math.isfinite(norm):
            for group in self.adamw.param_groups:
                group["lr"] = lr
            self.adamw.step()
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(self.masters[name])
        return norm

    def state_tensors(self) -> dict[str, Tensor]:
        """Masters and moments by name, for a safetensors file."""
        tensors = {f"master.{name}": master for name, master in self.masters.items()}
        for name, master in self.masters.items():
            for key, value in self.adamw.state.get(master, {}).items():
                tensors[f"{key}.{name}"] = value
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` gave."""
        for name, master in self.masters.items():
            master.copy_(tensors[f"master.{name}"])
            moments = {
                key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors
            }
            if moments:
                self.adamw.state[master] = moments
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.masters[name])
