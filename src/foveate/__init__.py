"""Foveate: reasoning agents that look again.

    from foveate import Agent
    print(Agent("nano").ask("What is the total?", ["receipt.png"]).text)

The names below are loaded when they are first used: importing the package is quick and pulls in neither torch nor
langgraph.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foveate.agent.agent import Agent
    from foveate.agent.records import Answer
    from foveate.models import Thinker

    __version__: str

__all__ = ["Agent", "Answer", "Thinker", "__version__"]

_HOMES = {"Agent": "foveate.agent.agent", "Answer": "foveate.agent.records", "Thinker": "foveate.models"}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("foveate")
    if name not in _HOMES:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    value: object = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
