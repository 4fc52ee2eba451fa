"""Foveate: reasoning agents that look again.

    from foveate import Agent
    print(Agent("nano").ask("What is the total?", ["receipt.png"]).text)

The names below are loaded when they are first used: importing the package is quick and pulls in neither torch nor
langgraph.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foveate.agent.agent import Agent
    from foveate.agent.budget import Budget
    from foveate.agent.images import ImageStore
    from foveate.agent.records import Answer, RunDone, Step, StepDone, TextDelta, ToolStarted
    from foveate.errors import (
        CheckpointError,
        ConfigError,
        FoveateError,
        ImageError,
        InputError,
        ModelError,
        ToolArgumentError,
        ToolError,
    )
    from foveate.models import Thinker, ThinkerReasoner
    from foveate.tools import Box, Tool, ToolResult, default_tools

    __version__: str

__all__ = [
    "Agent",
    "Answer",
    "Box",
    "Budget",
    "CheckpointError",
    "ConfigError",
    "FoveateError",
    "ImageError",
    "ImageStore",
    "InputError",
    "ModelError",
    "RunDone",
    "Step",
    "StepDone",
    "TextDelta",
    "Thinker",
    "ThinkerReasoner",
    "Tool",
    "ToolArgumentError",
    "ToolError",
    "ToolResult",
    "ToolStarted",
    "__version__",
    "default_tools",
]

_NAMES_OF = {
    "foveate.agent.agent": ("Agent",),
    "foveate.agent.budget": ("Budget",),
    "foveate.agent.images": ("ImageStore",),
    "foveate.agent.records": ("Answer", "RunDone", "Step", "StepDone", "TextDelta", "ToolStarted"),
    "foveate.errors": tuple(name for name in __all__ if name.endswith("Error")),
    "foveate.models": ("Thinker", "ThinkerReasoner"),
    "foveate.tools": ("Box", "Tool", "ToolResult", "default_tools"),
}
_HOMES = {name: home for home, names in _NAMES_OF.items() for name in names}


if not TYPE_CHECKING:  # a checker that saw it would take any name for one of the package

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("foveate")
        if name not in _HOMES:
            raise AttributeError(f"module 'foveate' has no attribute {name!r}; it has {', '.join(__all__)}")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
