"""What a run leaves behind: its steps, what they used, and the answer; and the events that tell of them live.

Every record is a frozen dataclass of plain values (images by sha256), so that it can be checkpointed, written as JSON
and shown without the model that made it.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from foveate.agent.budget import Budget
from foveate.tools.tool import Box

SCHEMA_VERSION = 1
Status = Literal["answered", "out_of_budget", "cancelled", "error"]


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """An image of the run and where its pixels come from."""

    sha256: str
    width_px: int
    height_px: int
    original: str
    """sha256 of the user's picture that it is a part of (its own sha256 when it is one)."""
    box_px: Box
    """The part of the original that it shows, in the original's upright pixels."""

    drawn: bool = False
    """Whether a tool drew it, and not from a part of a picture."""

    @property
    def is_crop(self) -> bool:
        """Whether it was cut from a picture of the user."""
        return self.original != self.sha256


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that happened: a thought, a tool call with its result, or the answer."""

    kind: Literal["think", "tool", "answer", "error"]
    text: str
    """The thought; the tool's textual result; the answer; the error told to the model."""
    tool: str | None = None
    arguments: dict[str, Any] | None = None
    box_px: Box | None = None
    """For a zoom: the box in the original picture's upright pixels."""
    image: str | None = None
    """sha256 of the image that the step produced."""
    source: str | None = None
    """For a zoom: sha256 of the original picture that box_px refers to."""
    tokens: int = 0
    """Policy tokens of this step."""
    seconds: float = 0.0
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a run has used."""

    turns: int = 0
    policy_tokens: int = 0
    image_tokens: int = 0
    tool_calls: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a question was asked with."""

    model: str
    budget: Budget
    temperature: float
    seed: int | None

    def to_json(self) -> dict[str, Any]:
        """The object that stands in `Answer.to_json`."""
        return asdict(self) | {"budget": self.budget.to_json()}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """What `to_json` wrote. Raises KeyError, TypeError or ConfigError for what it did not write."""
        return cls(**{**record, "budget": Budget.from_json(record["budget"])})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The end of a run."""

    text: str
    status: Status
    steps: tuple[Step, ...]
    usage: Usage
    images: tuple[ImageRecord, ...]
    reason: str = ""
    """Why the run ended when the status is not "answered"."""
    settings: Settings | None = None
    """None in a record that was written without them."""
    schema_version: int = field(default=SCHEMA_VERSION)

    @classmethod
    def of_error(cls, reason: str) -> Self:
        """Of a question that was not asked, such as one whose picture cannot be shown."""
        return cls(text="", status="error", reason=reason, steps=(), usage=Usage(), images=())

    @property
    def status_text(self) -> str:
        """The status in words."""
        return self.status.replace("_", " ")

    def to_json(self) -> dict[str, Any]:
        """The object that `foveate ask --json` prints."""
        record = asdict(self)
        record["answer"] = record.pop("text")
        record["settings"] = self.settings and self.settings.to_json()
        for step in record["steps"]:
            step["box"] = step.pop("box_px")
        return record


@dataclass(frozen=True, kw_only=True)
class TextDelta:
    """A piece of text that the model has just written."""

    text: str


@dataclass(frozen=True, kw_only=True)
class ToolStarted:
    """A tool begins with a call; its StepDone follows when it ends."""

    tool: str
    arguments: dict[str, Any]
    """As the model wrote them."""


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """A step is complete."""

    step: Step


@dataclass(frozen=True, kw_only=True)
class RunDone:
    """The run is over; always the last event."""

    answer: Answer


Event = TextDelta | ToolStarted | StepDone | RunDone
