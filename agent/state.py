"""What the graph remembers: plain JSON values only, so that a checkpoint can hold nothing that runs when it is loaded.

Over a conversation `messages`, `images`, `steps` and `exchanges` grow; a checkpoint stores what was added, not the
whole list again (a delta channel). A question that the model refuses to read leaves `messages` and `images` again.
Images are sha256 references into an image store. Per question `usage`, `pending`, `results` and `outcome` start anew;
`first_step` says where the question's steps begin. A checkpoint is data from outside when it is read again: `checked`
judges it before anything goes on from there.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NotRequired, TypedDict, cast

from langgraph.channels import DeltaChannel

from foveate.agent.budget import Budget
from foveate.agent.messages import Call
from foveate.agent.records import Answer, Event, ImageRecord, Settings, Status, Step, Usage
from foveate.tools.tool import Box, Tool

SCHEMA_VERSION = 1
"""Of the state; another one is refused."""
Plain = dict[str, Any]
"""A JSON object."""


def more(items: Sequence[Plain]) -> Plain:
    """What a node returns for a list that grows.

    The items travel inside an object: LangGraph turns chat messages that lie in a plain list into objects of its own.
    """
    return {"more": list(items)}


def only(count: int) -> Plain:
    """What a node returns for such a list when no more than its first items stay: what was refused is taken back."""
    return {"keep": count, "more": []}


def grown(held: list[Plain], added: Sequence[Plain]) -> list[Plain]:
    """Reducer of the lists that grow: `held` and then what each of `added` (see `more` and `only`) says."""
    for batch in added:
        held = [*held[: batch.get("keep")], *batch["more"]]
    return held


Growing = Annotated[list[Plain], DeltaChannel(grown)]


class QuestionInput(TypedDict):
    """What a run starts from."""

    schema_version: int
    question: str
    pictures: list[Plain]
    """Records of the question's new pictures; their pixels are in the store already."""
    budget: NotRequired[Plain]
    """What this question may use (`Budget.to_json`), which a resume keeps to; earlier versions wrote none."""


class RunState(QuestionInput):
    """The whole state of a conversation between two nodes."""

    messages: Growing
    images: Growing
    """`ImageRecord`s; the position is the number that the model uses."""
    steps: Growing
    exchanges: Growing
    """One for each question that has ended, see `exchanges_of`."""
    first_step: int
    usage: Plain
    pending: Plain
    """What the last turn asks for: ``{"calls": [...]}``, ``{"answer": text}`` or ``{"error": text}``."""
    results: list[Plain]
    """What the tools returned for the pending calls, not yet shown to the model."""
    outcome: Plain
    """``{"status", "reason", "text"}`` as soon as the question must end, else empty."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a run is given beside its state; never checkpointed."""

    budget: Budget = field(default_factory=Budget)
    tools: tuple[Tool, ...] = ()
    """Opened for this run (`Tool.for_run`); the caller closes them."""
    temperature: float = 0.0
    seed: int | None = None
    """Every turn samples with its own seed derived from it; None leaves the seed to the reasoner."""
    should_stop: Callable[[], bool] = lambda: False
    """Asked after every token and before every tool call; True cancels the run."""
    emit: Callable[[Event], None] = lambda _: None
    """Receives calls as they begin, steps as they complete, and text as it is written if that is wanted."""
    emits_text: bool = True
    """False where nobody reads along: a model then need not decode every token."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A question of a conversation and how it ended."""

    question: str
    answer: Answer


def question_input(question: str, pictures: Sequence[ImageRecord] = (), budget: Budget | None = None) -> QuestionInput:
    """What the graph is invoked with."""
    records, limits = [to_plain(record) for record in pictures], budget.to_json() if budget else {}
    return {"schema_version": SCHEMA_VERSION, "question": question, "pictures": records, "budget": limits}


def budget_of(state: RunState) -> Budget | None:
    """What the question of a state may use; None where an earlier version wrote it."""
    limits = state.get("budget")
    return Budget.from_json(limits) if limits else None


def ended(status: Status, reason: str = "", text: str = "") -> Plain:
    """An outcome."""
    return {"status": status, "reason": reason, "text": text}


def to_plain(record: Step | Usage | ImageRecord) -> Plain:
    """A record as JSON values: tuples become lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(record).items()}


def step_from(plain: Plain) -> Step:
    """The step that `to_plain` wrote."""
    return Step(**{**plain, "box_px": _box(plain["box_px"])})


def image_from(plain: Plain) -> ImageRecord:
    """The image record that `to_plain` wrote."""
    return ImageRecord(**{**plain, "box_px": _box(plain["box_px"])})


def exchange_of(state: RunState, outcome: Plain, added_steps: int, settings: Settings) -> Plain:
    """What `exchanges` keeps of a question that ends with `outcome`, after `added_steps` more steps."""
    last_step = len(state["steps"]) + added_steps
    spans = {"first_step": state["first_step"], "last_step": last_step, "num_images": len(state["images"])}
    ended_with = {**outcome, "usage": state["usage"], "settings": settings.to_json()}
    return {"question": state["question"], **ended_with, **spans}


def exchanges_of(state: RunState) -> tuple[Exchange, ...]:
    """Every question of the conversation that has ended, with its answer."""
    return tuple(_exchange(state, plain) for plain in state.get("exchanges", []))


def checked(values: Plain) -> RunState:
    """The state that a checkpoint holds, empty for none.

    Raises ValueError for one of another version; KeyError, TypeError or ValueError for records that are none.
    """
    found = values.get("schema_version", SCHEMA_VERSION)  # what was written before there was a number is version 1
    if found != SCHEMA_VERSION:
        raise ValueError(f"its state has the version {found!r}, wanted {SCHEMA_VERSION}")
    state = cast(RunState, values)
    results = state.get("results", [])
    made = [result["image"] for result in results if result["image"]]
    for plain in [*state.get("steps", []), *(result["step"] for result in results)]:
        step_from(plain)
    for plain in [*state.get("images", []), *state.get("pictures", []), *made]:
        image_from(plain)
    for plain in state.get("pending", {}).get("calls", []):
        if not isinstance(Call(**plain).arguments, dict):
            raise TypeError(f"a call has the arguments {plain['arguments']!r:.40}")
    if not all({"role", "content"} <= message.keys() for message in state.get("messages", [])):
        raise ValueError("a message has no role or no content")
    Usage(**state.get("usage", {}))
    budget_of(state)
    exchanges_of(state)
    return state


def _exchange(state: RunState, plain: Plain) -> Exchange:
    answer = Answer(
        text=plain["text"],
        status=plain["status"],
        reason=plain["reason"],
        steps=tuple(step_from(step) for step in state["steps"][plain["first_step"] : plain["last_step"]]),
        usage=Usage(**plain["usage"]),
        images=tuple(image_from(image) for image in state["images"][: plain["num_images"]]),
        settings=Settings.from_json(plain["settings"]) if "settings" in plain else None,
    )
    return Exchange(question=plain["question"], answer=answer)


def _box(values: Sequence[float] | None) -> Box | None:
    if values is None:
        return None
    x0, y0, x1, y1 = values
    return x0, y0, x1, y1
