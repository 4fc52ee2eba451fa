"""A tool is a typed function with a docstring.

`Tool(function)` derives the name, the description and the JSON schema that a model is told. A plain function returns
text, a PIL image or a ToolResult. A function that looks at the pictures of the run is made with ``wants_images=True``
and gets them as its first parameter, which the model does not see:

    def count_words(text: str) -> str:
        '''Count the words of a text.'''

    def mirror(images: Sequence[Image.Image], image: int) -> Image.Image:
        '''Mirror an image of this run.'''

    tools = [Tool(count_words), Tool(mirror, wants_images=True)]

The agent's side: `tools = [tool.for_run() for tool in tools]` when a run starts (a tool with state, like the code
kernel, hands out a copy of its own), `perform(tools, call, images)` for every call, `tool.close()` when the run ends.
When the user stops the run during a call, or its time is up, `tool.cancel()` from another thread.
`perform` never raises for what a model or a tool did: a failure is a result with ``failed=True`` that the model reads.
"""

import functools
import inspect
import logging
import math
import numbers
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from PIL import Image

from foveate.errors import ConfigError, ToolArgumentError, ToolError, shown
from foveate.tools.schema import checked_arguments, parameters_of

_log = logging.getLogger(__name__)

CANCEL_AGAIN_S = 0.1
"""How long a call that was told to end may go on until it is told again."""
Box = Annotated[tuple[float, float, float, float], "box"]
"""x0, y0, x1, y1 in pixels of the upright image; the schema says "format": "box", so that an agent can translate."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """What a model asks for."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a tool hands back: text and at most one image."""

    text: str = ""
    image: Image.Image | None = None
    source_idx: int | None = None
    """Number of the image of the run that `image` is a part of."""
    box_px: Box | None = None
    """The part of that source that `image` shows, in the source's upright pixels."""
    failed: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    """More for a program that calls the tool itself, never shown to the model (for python: the full output)."""


class Tool:
    """A function that a model may call. Subclass it for a tool with state (see PythonTool)."""

    def __init__(
        self,
        function: Callable[..., str | Image.Image | ToolResult],
        *,
        name: str | None = None,
        wants_images: bool = False,
    ) -> None:
        """Derive the schema; ConfigError when an argument has no type hint or one without a JSON form.

        Also for what is no plain function: a class, an object that can be called, a coroutine or a generator.
        """
        check_function(function)
        self.function = function
        self.wants_images = wants_images
        self.name: str = name or function.__name__
        self.description: str = (inspect.getdoc(function) or "").split("\nArgs:")[0].strip()
        self.parameters, self._hints = parameters_of(function, skip=int(wants_images))

    def call(self, arguments: dict[str, Any], images: Sequence[Image.Image]) -> ToolResult:
        """Check the arguments and run the function; `images` are the upright pictures of the run, in order.

        Raises ToolArgumentError for arguments that do not fit, another ToolError when the tool failed.
        """
        values = checked_arguments(arguments, self.parameters, self._hints)
        outcome = self.function(images, **values) if self.wants_images else self.function(**values)
        if isinstance(outcome, ToolResult):
            return outcome
        if isinstance(outcome, Image.Image):
            return ToolResult(image=outcome)
        return ToolResult(text=str(outcome))

    def for_run(self) -> "Tool":
        """The tool to use in one run: itself, unless it keeps state."""
        return self

    def cancel(self) -> None:
        """End a call that is under way soon, as a ToolError; the tool stays usable. By default the call goes on.

        May be called from any thread and any number of times. Without a call under way it does nothing, to the next
        call neither: a caller repeats it until the call has ended. A tool that implements it gives each run a copy.
        """

    def close(self) -> None:
        """Free what a run has used; may be called twice."""


def check_function(function: Callable[..., Any]) -> None:
    """ConfigError unless a call of it gives the result, and its name, docstring and type hints can be read."""
    is_plain = inspect.isroutine(function) and not inspect.isbuiltin(function)
    if not is_plain or isinstance(function, functools.partial):
        raise ConfigError(f"got the tool {shown(function)}, wanted a function; write one with `def` that calls it")
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    if any(is_one(function) for is_one in kinds):
        raise ConfigError(
            f"the tool {function.__name__!r} is async or yields, wanted a function that returns its result; "
            "run it inside one: asyncio.run, or join what it yields"
        )


def perform(
    tools: Iterable[Tool], call: ToolCall, images: Sequence[Image.Image], *, seconds: float = math.inf
) -> ToolResult:
    """Run a call; every failure becomes a result with ``failed=True`` whose text tells the model what to do.

    After `seconds` the tool is cancelled. One that cannot be (see `Tool.cancel`) is waited for.
    """
    known = {tool.name: tool for tool in tools}
    try:
        if call.name not in known:
            raise ToolArgumentError(f"there is no tool {call.name!r}; use {', '.join(known) or 'none'}")
        with cancelled_after(seconds, known[call.name]):
            return checked_result(known[call.name].call(call.arguments, images))
    except ToolError as error:
        return ToolResult(text=f"{call.name}: {error}", failed=True)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's function may raise anything, sys.exit too; the run goes on  # noqa: BLE001
        return ToolResult(text=f"{call.name} failed: {type(error).__name__}: {error}", failed=True)


def checked_result(outcome: object) -> ToolResult:
    """What a tool has returned; ToolError unless it is a ToolResult whose values are of their types."""
    if not isinstance(outcome, ToolResult):
        raise ToolError(f"it returned {shown(outcome)}, wanted a ToolResult")
    rules = (
        ("text", isinstance(outcome.text, str), "a string"),
        ("image", isinstance(outcome.image, Image.Image | None), "a PIL image or None"),
        ("source_idx", is_index(outcome.source_idx), "an integer or None"),
        ("box_px", is_box(outcome.box_px), "four finite numbers or None"),
        ("failed", isinstance(outcome.failed, bool), "True or False"),
    )
    for name, fits, wanted in rules:
        if not fits:
            raise ToolError(
                f"it returned a ToolResult with the {name} {shown(getattr(outcome, name))}, wanted {wanted}"
            )
    return outcome


def is_index(value: object) -> bool:
    """Whether a value is an integer or None; true and false are not integers."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def is_box(value: object) -> bool:
    """Whether a value is four finite numbers or None."""
    return value is None or (
        isinstance(value, tuple | list)
        and len(value) == 4
        and all(not isinstance(part, bool) and isinstance(part, numbers.Real) and math.isfinite(part) for part in value)
    )


@contextmanager
def told_when_broken(tool: Tool) -> Iterator[None]:
    """Around a `cancel` or `close` of a tool: what it raises is logged, and costs the others nothing."""
    try:
        yield
    except Exception:  # a user's function may raise anything  # noqa: BLE001
        _log.exception("the tool %r failed while it was cancelled or closed", tool.name)


@contextmanager
def cancelled_after(seconds: float, tool: Tool) -> Iterator[None]:
    """Cancel a call of the tool inside the block once `seconds` have passed, again and again until it has ended."""
    ended = threading.Event()

    def watch() -> None:
        wait_s = min(seconds, threading.TIMEOUT_MAX)
        while not ended.wait(wait_s):
            with told_when_broken(tool):
                tool.cancel()
            wait_s = CANCEL_AGAIN_S

    watcher = threading.Thread(target=watch, name="foveate-clock", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
