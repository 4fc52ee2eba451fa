"""Feed-forward layers: gated, or with one activation in the middle.

Shape letters: T tokens, D width, I inner width.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from foveate.models.linear import Linear
from foveate.ops import silu_mul

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]


def activate(x: Tensor, kind: Activation) -> Tensor:
    """The Gaussian error linear unit: exact, by a tanh, or by a sigmoid (as in CLIP)."""
    if kind == "quick_gelu":
        return x * (1.702 * x).sigmoid()
    return F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")


class SwiGLU(nn.Module):
    """Gated feed-forward: down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * intermediate_size, bias=bias)
        self.down = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D]."""
        return self.down(silu_mul(self.gate_up(x_TD)))


class MLP(nn.Module):
    """Feed-forward without a gate: down(activation(up(x)))."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation) -> None:
        super().__init__()
        self.activation: Activation = activation
        self.up = Linear(hidden_size, intermediate_size)
        self.down = Linear(intermediate_size, hidden_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        """[T, D] -> [T, D]."""
        return self.down(activate(self.up(x_TD), self.activation))
