"""The linear layer, in the dtype of its weights or rounded to int8."""

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn

from foveate.ops import Int8Rows, linear


class Linear(nn.Linear):
    """As nn.Linear, by a native kernel where few tokens come, or on tiles."""

    int8: Int8Rows | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Linear
        """[..., D] -> [..., O]."""
        return linear(input, self.weight if self.int8 is None else self.int8, self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What moves a module moves its rounded weights too."""
        self.int8 = self.int8 and self.int8.moved(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def to_int8(self) -> None:
        """Keep the weights rounded, and nothing else of them."""
        self.int8 = Int8Rows.of(self.weight)
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)
