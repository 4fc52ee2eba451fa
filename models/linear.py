"""The linear layer, in the dtype of its weights or rounded."""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn

from foveate.ops import Rounded, linear

Round = Callable[[Tensor], Rounded]
"""What rounds a matrix, or one for each expert."""


class Linear(nn.Linear):
    """As nn.Linear, by a native kernel where few tokens come, or on tiles."""

    rounded: Rounded | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Linear
        """[..., D] -> [..., O]."""
        return linear(input, self.weight if self.rounded is None else self.rounded, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What moves a module moves its rounded weights too."""
        self.rounded = self.rounded and self.rounded.moved(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def round(self, by: Round) -> None:
        """Keep the weights rounded, and nothing else of them."""
        self.rounded = by(self.weight)
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)
