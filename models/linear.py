"""The linear layer of the decoder."""

from torch import Tensor, nn

from foveate.ops import linear


class Linear(nn.Linear):
    """As nn.Linear, by a native kernel where few tokens come."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in nn.Linear
        """[..., D] -> [..., O]."""
        return linear(input, self.weight, self.bias)
