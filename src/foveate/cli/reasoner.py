"""From what ``--model`` names to a reasoner."""

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

from foveate.models.load import load_reasoner as load

if TYPE_CHECKING:
    from foveate.models.reasoner import Reasoner

LoadReasoner = Callable[[str, str], "Reasoner"]
"""From a name and a device."""


def load_reasoner(model: str, device: str) -> "Reasoner":
    """The reasoner of a checkpoint folder, of a name on the hub, of an address, or of the nano in the package.

    Raises ModelError for a name that is neither, CheckpointError for files that cannot be used.
    """
    gc.disable()  # what an import makes stays: looking for garbage in it takes a tenth of the time
    try:
        import foveate.agent.agent  # noqa: F401  the rest of what a question needs

        return load(model, device)
    finally:
        gc.enable()
