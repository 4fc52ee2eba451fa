"""From what names a model to the reasoner that it is.

A name is judged before anything is loaded, so that a slip is told at once; torch, langchain and the like load with the
model that needs them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import ConfigError, ModelError
from foveate.models.reasoner import ENDPOINT, ROUNDED, TRANSFORMERS, Reasoner, name_parts
from foveate.models.snapshot import NANO, is_hub_name
from foveate.paths import expanded, is_folder

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


def reasoner_of(model: "Reasoner | BaseChatModel | str | Path") -> Reasoner:
    """A model by its name, a chat model of LangChain, or what is a reasoner already.

    Raises ConfigError for anything else, and what `load_reasoner` does.
    """
    if isinstance(model, str | Path):
        return load_reasoner(model)
    if isinstance(model, Reasoner):
        return model
    from langchain_core.runnables import Runnable

    if isinstance(model, Runnable):
        from foveate.models.chat_model import ChatModelReasoner

        return ChatModelReasoner(model)
    raise ConfigError(
        f"got a model of the type {type(model).__name__}, wanted its name or folder, a chat model of LangChain, or a "
        "Reasoner (ThinkerReasoner(thinker) makes one of a Thinker)"
    )


def load_reasoner(model: str | Path) -> Reasoner:
    """The model of a checkpoint folder, a name on the hub, or "nano"; ":int8" or ":nf4" behind it rounds its weights.

    With "transformers:" before a folder its model runs in transformers, whatever its family; behind an address
    (http://HOST/v1#NAME) it runs where that leads. Raises ModelError for a name that is none of these,
    CheckpointError for files that cannot be used, ConfigError where an extra that the name needs is missing.

    Weights are computed with as they are stored, but in f32 where the processor would have to emulate bf16; f16, which
    no kernel takes, as bf16 or f32, whichever is fast.
    """
    name = known_model(str(model))
    if name.startswith(ENDPOINT):
        from foveate.models.endpoint import endpoint

        return endpoint(name)
    import torch

    from foveate.models.checkpoint import convert
    from foveate.models.generate import ThinkerReasoner
    from foveate.models.thinker import Thinker
    from foveate.ops import SERVED, compute_dtype

    dtype = torch.float32 if compute_dtype() == torch.float32 else None
    if name.startswith(TRANSFORMERS):
        from foveate.models.transformers_model import TransformersReasoner

        reasoner = TransformersReasoner.from_pretrained(Path(name.removeprefix(TRANSFORMERS)), name=name, dtype=dtype)
        if reasoner.model.dtype not in SERVED:
            reasoner.model.to(compute_dtype())
        return reasoner
    _, folder, suffix = name_parts(name)
    thinker = Thinker.from_pretrained(folder, dtype=dtype, rounding=ROUNDED.get(suffix))
    if thinker.decoder.embed.weight.dtype not in SERVED:
        convert(thinker, compute_dtype())
    return ThinkerReasoner(thinker, name=name)


def known_model(model: str) -> str:
    """nano, an address, a name on the hub, or the folder that `model` names, with its suffix; ModelError otherwise."""
    if model.startswith(ENDPOINT):
        return model
    prefix, name, suffix = name_parts(model)
    folder = expanded(name)
    if prefix and suffix:
        raise ModelError(f"got the model {model!r}: {suffix} is for our own thinker, {TRANSFORMERS} runs without it")
    if prefix and not is_folder(folder):
        raise ModelError(
            f"got the model {model!r}, wanted a folder behind {TRANSFORMERS}; fetch a model of the hub first: "
            "hf download OWNER/NAME --local-dir FOLDER"
        )
    given = not prefix and (name == NANO or is_hub_name(name))
    if not given and not (name and is_folder(folder)):
        raise ModelError(
            f"got the model {model!r}, wanted nano, a folder that holds a checkpoint, OWNER/NAME of the hub, "
            "or http://HOST/v1#NAME"
        )
    return model if given else f"{prefix}{folder}{suffix}"
