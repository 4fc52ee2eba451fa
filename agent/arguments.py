"""What a user hands to an Agent, judged before anything runs: what is wrong is told in one line."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from PIL import Image

from foveate.agent.boxes import holds_box
from foveate.agent.budget import Budget
from foveate.agent.images import ImageStore
from foveate.agent.parse import OTHER_NAMES
from foveate.errors import ConfigError, InputError, shown
from foveate.models.reasoner import Dialect
from foveate.pictures import PictureSource
from foveate.tools import default_tools
from foveate.tools.schema import is_number
from foveate.tools.tool import Tool

HOTTEST = 100.0
"""Beyond it every token is as likely as any other."""


def checked_question(question: str) -> str:
    """The text of a question."""
    if not isinstance(question, str):
        raise InputError(f"got the question {shown(question)}, wanted text")
    if not question.strip():
        raise InputError("got an empty question, wanted some text")
    return question.replace("\0", "")  # which PostgreSQL cannot hold


def checked_budget(budget: Budget | None) -> Budget | None:
    """The budget of a question; None leaves it to the agent."""
    if budget is not None and not isinstance(budget, Budget):
        raise ConfigError(f"got the budget {shown(budget)}, wanted a Budget: Budget(turns=8, seconds=60)")
    return budget


def checked_temperature(temperature: float) -> float:
    """The temperature of sampling."""
    if not is_number(temperature) or not 0 <= temperature <= HOTTEST:
        raise ConfigError(f"got the temperature {shown(temperature)}, wanted a number from 0 to {HOTTEST:g}")
    return float(temperature)


def checked_seed(seed: int | None) -> int | None:
    """The seed of sampling; None draws one."""
    if seed is None or (type(seed) is int and abs(seed) < 2**63):
        return seed
    raise ConfigError(f"got the seed {shown(seed)}, wanted a whole number below 2**63, or None")


def checked_store(store: ImageStore | None) -> ImageStore | None:
    """Where pictures are kept; None leaves it to the agent."""
    if store is not None and not isinstance(store, ImageStore):
        raise ConfigError(f"got the store {shown(store)}, wanted an ImageStore: ImageStore(FOLDER)")
    return store


def checked_observer(observe_image: Callable[[Image.Image], Image.Image] | None) -> Any:
    """What replaces images before the model sees them; None for nothing."""
    if observe_image is not None and not callable(observe_image):
        raise ConfigError(f"got the observe_image {shown(observe_image)}, wanted a function from an image to one")
    return observe_image


def usual_tools(dialect: Dialect, *, network: bool = False, unsafe: bool = False) -> tuple[Tool, ...]:
    """Those of `default_tools`; a model that they are explained to is told more by them than nano, which knows them."""
    return default_tools(network=network, unsafe=unsafe, terse=not dialect.wants_system_prompt)


def tools_of(tools: Iterable[Tool | Callable[..., Any]]) -> tuple[Tool, ...]:
    """The tools, plain functions among them wrapped."""
    if not isinstance(tools, Iterable):
        raise ConfigError(f"got the tools {shown(tools)}, wanted a list of them")
    wrapped = tuple(_tool(tool) for tool in tools)
    names = [tool.name for tool in wrapped]
    twice = sorted({name for name in names if names.count(name) > 1})
    if others := sorted(OTHER_NAMES.keys() & set(names)):
        raise ConfigError(
            f"got a tool called {others[0]}, by which models mean our {OTHER_NAMES[others[0]]}; give it another name: "
            "Tool(function, name=...)"
        )
    if twice:
        raise ConfigError(f"got two tools called {', '.join(twice)}, wanted a name for each: Tool(function, name=...)")
    return wrapped


def _tool(tool: Tool | Callable[..., Any]) -> Tool:
    if not isinstance(tool, Tool):
        if not callable(tool):
            raise ConfigError(f"got the tool {shown(tool)}, wanted a Tool or a typed function with a docstring")
        tool = Tool(tool)
    properties = tool.parameters["properties"]
    number = properties.get("image", {"type": "integer"})
    if any(map(holds_box, properties.values())) and not _is_number_of_image(number):
        raise ConfigError(
            f"the tool {tool.name!r} takes a Box, and its argument image is {shown(number)}, wanted an int: the number "
            "of the image that the box is in"
        )
    return tool


def _is_number_of_image(schema: Mapping[str, Any]) -> bool:
    """Whether all that an argument may be is a number, or none."""
    forms = schema.get("anyOf", [schema])
    return all(
        all(map(is_number, form["enum"])) if "enum" in form else form.get("type") in ("integer", "number", "null")
        for form in forms
    )


def pictures_in(images: PictureSource | Iterable[PictureSource]) -> Iterable[PictureSource]:
    """The pictures of a question; one alone needs no list. Raises InputError for what is neither.

    An open file is iterable, and so are bytes of all kinds, but neither is a list of pictures.
    """
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        return (images,)
    if isinstance(images, bytearray | memoryview) or hasattr(images, "read"):
        return (cast(PictureSource, images),)  # which says what is wanted
    if not isinstance(images, Iterable):
        raise InputError(f"got the images {shown(images)}, wanted a picture or a list of them")
    return images
