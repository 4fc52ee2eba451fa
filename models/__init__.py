"""The thinker: configuration, layers, checkpoints, generation. Heavy parts load on first use."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foveate.models.checkpoint import nano_path
    from foveate.models.generate import ThinkerReasoner
    from foveate.models.thinker import Thinker

__all__ = ["Thinker", "ThinkerReasoner", "nano_path"]

_HOMES = {"Thinker": "thinker", "ThinkerReasoner": "generate", "nano_path": "checkpoint"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'foveate.models' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"foveate.models.{_HOMES[name]}"), name)
