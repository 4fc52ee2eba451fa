"""From what ``--model`` names to a reasoner."""

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

from foveate.errors import ModelError
from foveate.models.reasoner import ENDPOINT, INT8, TRANSFORMERS, name_parts
from foveate.models.snapshot import is_hub_name
from foveate.paths import expanded

if TYPE_CHECKING:
    from foveate.models.reasoner import Reasoner

LoadReasoner = Callable[[str], "Reasoner"]


def load_reasoner(model: str) -> "Reasoner":
    """The reasoner of a checkpoint folder, of a name on the hub, of an address, or of the nano in the package.

    Raises ModelError for a name that is neither, CheckpointError for files that cannot be used.
    """
    name = known_model(model)  # a slip is told before torch is loaded
    gc.disable()  # what an import makes stays: looking for garbage in it takes a tenth of the time
    try:
        from foveate.agent.agent import load_reasoner as load

        return load(name)
    finally:
        gc.enable()


def known_model(model: str) -> str:
    """nano, an address, a name on the hub, or the folder that `model` names, with its suffix; ModelError otherwise."""
    if model.startswith(ENDPOINT):
        return model
    prefix, name, suffix = name_parts(model)
    folder = expanded(name)
    if prefix and suffix:
        raise ModelError(f"got the model {model!r}: {INT8} is for our own thinker, {TRANSFORMERS} runs without it")
    given = not prefix and (name == "nano" or is_hub_name(name))
    if not given and not folder.is_dir():
        raise ModelError(
            f"got the model {model!r}, wanted nano, a folder that holds a checkpoint, OWNER/NAME of the hub, "
            "or http://HOST/v1#NAME"
        )
    return model if given else f"{prefix}{folder}{suffix}"
