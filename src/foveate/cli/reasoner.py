"""From what ``--model`` names to a reasoner."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import ModelError

if TYPE_CHECKING:
    from foveate.models.reasoner import Reasoner

LoadReasoner = Callable[[str], "Reasoner"]


def load_reasoner(model: str) -> "Reasoner":
    """The reasoner of a checkpoint folder, or of the nano that ships with the package.

    Raises ModelError for a name that is neither, CheckpointError for files that cannot be used.
    """
    if model != "nano" and not Path(model).expanduser().is_dir():  # a slip is told before torch is loaded
        raise ModelError(f"got the model {model!r}, wanted nano or a folder that holds a checkpoint")
    from foveate.agent.agent import load_reasoner as load

    return load(model if model == "nano" else Path(model).expanduser())
