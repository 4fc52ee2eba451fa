"""What a question may cost, and how a run knows that it must end.

A `Budget` never changes; what was spent is a `Usage` in the graph's state, so a resumed run goes on counting where the
killed one stopped. Budgets are per question. A run that has spent one ends with the best answer so far, the status
"out_of_budget" and a reason that names the budget.

Turns, policy tokens and seconds are spent when nothing of them is left. Image tokens are paid before an image is shown:
an image that costs more than what is left is not shown, and the model is told so.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from foveate.errors import ConfigError, shown

if TYPE_CHECKING:
    from foveate.agent.records import Usage


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The most that one question may use. A limit of 0 ends the run before it uses any of it."""

    turns: int = 12
    """Model turns, the answering one included."""
    policy_tokens: int = 4096
    """Tokens that the model writes, over all turns."""
    image_tokens: int = 24576
    """Tokens that images take in the context: the question's pictures and every crop. The largest picture of most
    published models has 16,386.
    """
    seconds: float = 300.0
    """Time in the model and in tools; waiting between a kill and a resume does not count. A tool that cannot be
    cancelled (`Tool.cancel`) is waited for.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            right = isinstance(value, int | float if field.name == "seconds" else int) and not isinstance(value, bool)
            if not right or (isinstance(value, int) and value >= 2**63) or math.isnan(value) or value < 0:
                raise ConfigError(f"got {field.name}={shown(value)} in the budget, wanted a number >= 0 below 2**63")

    def to_json(self) -> dict[str, Any]:
        """Its limits; time without one is None, as JSON has no infinity."""
        return asdict(self) | ({"seconds": None} if math.isinf(self.seconds) else {})

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """What `to_json` wrote. Raises KeyError, TypeError or ConfigError for what it did not write."""
        return cls(**{**record, "seconds": math.inf if record["seconds"] is None else record["seconds"]})

    def spent(self, usage: "Usage") -> str | None:
        """Which budget allows no further turn, in words; None while a turn is possible."""
        for name in ("turns", "policy_tokens", "seconds"):
            used, limit = getattr(usage, name), getattr(self, name)
            if used >= limit:
                return reason(name, used, limit)
        return None

    def refuses_image(self, usage: "Usage", tokens: int) -> str | None:
        """Why an image of `tokens` may not be shown, in words; None when it fits."""
        if usage.image_tokens + tokens <= self.image_tokens:
            return None
        return f"image_tokens: {usage.image_tokens} of {self.image_tokens} used and the next image needs {tokens}"


def reason(name: str, used: float, limit: float) -> str:
    """The wording of `Answer.reason` for a spent budget; it starts with the budget's field name."""
    return f"{name}: {used:.4g} of {limit:.4g} used" if name == "seconds" else f"{name}: {used} of {limit} used"
