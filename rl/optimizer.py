"""Muon for hidden matrices and AdamW for the rest, on f32 master weights of a bf16 model.

The model computes in bf16; small updates would vanish there, so the optimizer steps an f32 copy of every parameter and
writes it back rounded. Matrices inside blocks take Muon's step (Jordan et al., 2024): momentum, orthogonalised, scaled
as in Moonlight (Liu et al., arXiv 2502.16982) to a size that no shape changes, so that one learning rate serves both.
torch.optim.Muon takes 2-D parameters one at a time; here experts are stacked, and equal shapes go together.

Shape letters: B matrices of one shape, I rows, O columns.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveate.ops import compute_dtype
from foveate.rl.limits import ABOVE_ZERO, BELOW_ONE, DECAYS, NOT_NEGATIVE, SHARE, check
from foveate.rl.team import norm_of_all, own_part, own_rows, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that brings singular values near 1 in five steps (Jordan et al.)."""
MUON_RMS = 0.4
"""Root mean square of a Muon step at learning rate 1: twice what Moonlight takes to match AdamW's steps."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Learning rate and its schedule."""

    lr: float = 1e-3
    warmup_steps: int = 100
    final_lr_fraction: float = 0.05
    """The cosine ends at this fraction of lr."""
    decay_steps: int = 0
    """The cosine takes this many steps at the end and lr is held before; 0 for all steps after the warm-up."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    muon: bool = True
    """Whether hidden matrices take Muon's step; AdamW's otherwise."""
    momentum: float = 0.95
    """Muon's."""

    def __post_init__(self) -> None:
        check(
            self, "optimizer.", lr=NOT_NEGATIVE, warmup_steps=NOT_NEGATIVE, final_lr_fraction=SHARE,
            decay_steps=NOT_NEGATIVE, weight_decay=NOT_NEGATIVE, betas=DECAYS, clip_norm=ABOVE_ZERO, momentum=BELOW_ONE,
        )  # fmt: skip


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Linear warm-up, a hold, then a cosine from the peak, which its first step takes, to final_lr_fraction of it.

    Until the cosine starts nothing depends on total_steps: a longer run passes through the same states.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    start = max(config.warmup_steps, total_steps - config.decay_steps if config.decay_steps else 0)
    progress = min(1.0, max(0, step - start) / max(1, total_steps - 1 - start))
    floor = config.final_lr_fraction
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def orthogonalise(matrices_BIO: Tensor) -> Tensor:
    """Matrices with the same singular vectors and singular values near 1 by five Newton-Schulz steps."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices_BIO.shape[-2] > matrices_BIO.shape[-1]
    x = matrices_BIO.to(compute_dtype(matrices_BIO.device))
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def learn_from(loss: Tensor, share: float) -> None:
    """Add the gradient of a share of a loss. One that is no number gives no number, so that its step is skipped.

    A loss can be no number while its gradient is one: what it divides by zero may lead to no weight.
    """
    loss.backward(share * (1.0 + 0.0 * loss.detach()))


class MasterOptimizer:
    """Steps f32 copies of the trainable parameters of `module`; of weights that are shared out, of its own parts."""

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        self.config = config
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.masters = {name: own_part(p.detach()).float().clone() for name, p in self.parameters.items()}
        hidden = [name for name, p in self.parameters.items() if config.muon and _is_hidden_matrix(name, p)]
        self.momenta = {name: torch.zeros_like(self.masters[name]) for name in hidden}
        others = {name: master for name, master in self.masters.items() if name not in hidden}
        decayed = [m for name, m in others.items() if m.dim() >= 2 and "positions" not in name]
        kept = [m for name, m in others.items() if m.dim() < 2 or "positions" in name]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)

    def step(self, lr: float) -> float:
        """One update from the gradients of the module; returns the gradient norm before clipping.

        A gradient that is not finite changes nothing (the norm returned tells).
        """
        self._take_gradients()
        masters = list(self.masters.values())
        own = nn.utils.get_total_norm([master.grad for master in masters if master.grad is not None])
        total = norm_of_all(own, self.parameters.values())
        nn.utils.clip_grads_with_norm_(masters, self.config.clip_norm, total)
        norm = float(total)
        if math.isfinite(norm):
            for group in self.adamw.param_groups:
                group["lr"] = lr
            self.adamw.step()
            with torch.no_grad():
                self._muon_step(lr)
                self._write_back()
        for master in masters:
            master.grad = None  # as large as the masters, while the policy plays
        return norm

    def _take_gradients(self) -> None:
        """Move the gradients of the module to the masters, in f32; zero where there is none."""
        given = {name: own_part(p.grad) for name, p in self.parameters.items() if p.grad is not None}
        gradients = dict(zip(given, _widened(list(given.values())), strict=True))
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            master.grad = gradients[name] if name in gradients else torch.zeros_like(master)
            parameter.grad = None

    def _write_back(self) -> None:
        """Round the masters into the module."""
        torch._foreach_copy_([own_part(p) for p in self.parameters.values()], list(self.masters.values()))

    def _muon_step(self, lr: float) -> None:
        """Nesterov momentum, orthogonalised, for every hidden matrix; matrices of one shape together."""
        config, shapes = self.config, defaultdict(list)
        for name in self.momenta:
            shapes[_matrix_shape(name, self.parameters[name])].append(name)
        for (rows, columns), names in shapes.items():
            masters, momenta = [self.masters[name] for name in names], [self.momenta[name] for name in names]
            gradients = [master.grad for master in masters if master.grad is not None]
            torch._foreach_lerp_(momenta, gradients, 1 - config.momentum)
            directions = torch._foreach_lerp(gradients, momenta, config.momentum)  # noqa: SLF001
            wholes = [whole(own, self.parameters[name]) for own, name in zip(directions, names, strict=True)]
            matrices = [direction.view(-1, rows, columns) for direction in wholes]
            steps_BIO = orthogonalise(torch.cat(matrices)).float() * (MUON_RMS * max(rows, columns) ** 0.5)
            steps = steps_BIO.split([len(some) for some in matrices])
            torch._foreach_mul_(masters, 1 - lr * config.weight_decay)
            shaped = [step.reshape(self.parameters[name].shape) for step, name in zip(steps, names, strict=True)]
            own_steps = [own_rows(step, self.parameters[name]) for step, name in zip(shaped, names, strict=True)]
            torch._foreach_sub_(masters, own_steps, alpha=lr)

    def reset(self) -> None:
        """Forget all momentum; the masters stay."""
        self.adamw.state.clear()
        for momentum in self.momenta.values():
            momentum.zero_()

    def state_tensors(self) -> dict[str, Tensor]:
        """Masters and moments by name, for a safetensors file."""
        tensors = {f"master.{name}": master for name, master in self.masters.items()}
        tensors |= {f"momentum.{name}": momentum for name, momentum in self.momenta.items()}
        for name, master in self.masters.items():
            for key, value in self.adamw.state.get(master, {}).items():
                tensors[f"{key}.{name}"] = value
        return tensors

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` gave."""
        for name, momentum in self.momenta.items():
            momentum.copy_(tensors[f"momentum.{name}"])
        for name, master in self.masters.items():
            master.copy_(tensors[f"master.{name}"])
            moments = {
                key: tensors[f"{key}.{name}"].to(master.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors
            }
            if moments:
                self.adamw.state[master] = moments
        with torch.no_grad():
            self._write_back()


def _widened(tensors: list[Tensor]) -> list[Tensor]:
    """The same in f32."""
    if all(tensor.dtype == torch.float32 for tensor in tensors):
        return tensors
    wide = [torch.empty_like(tensor, dtype=torch.float32) for tensor in tensors]
    torch._foreach_copy_(wide, tensors)
    return wide


def _matrix_shape(name: str, parameter: Tensor) -> tuple[int, int]:
    """Rows and columns; a convolution maps all inputs under its kernel, a gate and its up-projection are two."""
    if parameter.dim() == 4:
        return parameter.shape[0], math.prod(parameter.shape[1:])
    rows, columns = parameter.shape[-2:]
    return (rows // 2 if "gate_up" in name and "lora_A" not in name else rows), columns


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix, a stack of experts' matrices, or a convolution, from hidden to hidden states."""
    return (
        any(part in name for part in ("blocks.", "stem."))
        and parameter.dim() >= 2
        and not any(part in name for part in ("router", "convs.0."))
    )
