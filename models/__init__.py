"""The thinker: configuration, layers, checkpoints, generation. Heavy parts load on first use."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foveate.models.checkpoint import nano_path
    from foveate.models.generate import ThinkerReasoner
    from foveate.models.thinker import Thinker

__all__ = ["Thinker", "ThinkerReasoner", "nano_path"]

_HOMES = {"Thinker": "thinker", "ThinkerReasoner": "generate", "nano_path": "checkpoint"}


if not TYPE_CHECKING:  # a checker that saw it would take any name for one of the package

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'foveate.models' has no attribute {name!r}; it has {', '.join(__all__)}")
        from importlib import import_module

        return getattr(import_module(f"foveate.models.{_HOMES[name]}"), name)
