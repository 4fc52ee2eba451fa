"""From what names a model to the reasoner that it is.

A name is judged before anything is loaded, so that a slip is told at once; torch, langchain and the like load with the
model that needs them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import ConfigError, ModelError
from foveate.models.device import AUTO, automatic, device_of, put_on
from foveate.models.reasoner import ENDPOINT, ROUNDED, TRANSFORMERS, Reasoner, name_parts
from foveate.models.snapshot import NANO, is_hub_name
from foveate.paths import expanded, is_folder

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


def reasoner_of(model: "Reasoner | BaseChatModel | str | Path", device: str = AUTO) -> Reasoner:
    """A model by its name, a chat model of LangChain, or what is a reasoner already.

    Raises ConfigError for anything else and a device for what is somewhere already, and what `load_reasoner` does.
    """
    if isinstance(model, str | Path):
        return load_reasoner(model, device)
    if device != AUTO:
        raise ConfigError(
            f"device is {device!r} and the model no name but a {type(model).__name__}, which is somewhere already; "
            f"wanted {AUTO}"
        )
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


def load_reasoner(model: str | Path, device: str = AUTO) -> Reasoner:
    """The model of a checkpoint folder, a name on the hub, or "nano"; ":int8" or ":nf4" behind it rounds its weights.

    With "transformers:" before a folder its model runs in transformers, whatever its family; behind an address
    (http://HOST/v1#NAME) it runs where that leads. Raises ModelError for a name that is none of these,
    CheckpointError for files that cannot be used, ConfigError where an extra that the name needs is missing.

    It computes on `device`: cpu, cuda or as torch names others; "auto" is a GPU where there is one, but nano and
    rounded weights stay on the processor. Raises ConfigError for one that cannot be used, or not with this model.

    Weights are computed with as they are stored, but in f32 where the device would have to emulate bf16; f16, which
    no kernel takes, as bf16 or f32, whichever is fast.
    """
    name = known_model(str(model))
    where = place_of(name, device)
    if name.startswith(ENDPOINT):
        from foveate.models.endpoint import endpoint

        return endpoint(name)
    _, folder, suffix = name_parts(name)
    place = device_of(where)
    import torch

    from foveate.models.checkpoint import convert
    from foveate.models.generate import ThinkerReasoner
    from foveate.models.thinker import Thinker
    from foveate.ops import SERVED, compute_dtype

    dtype = torch.float32 if compute_dtype(place) == torch.float32 else None
    if name.startswith(TRANSFORMERS):
        from foveate.models.transformers_model import TransformersReasoner

        reasoner = TransformersReasoner.from_pretrained(Path(folder), name=name, dtype=dtype)
        if reasoner.model.dtype not in SERVED:
            reasoner.model.to(compute_dtype(place))
        put_on(reasoner.model, place)
        return reasoner
    thinker = Thinker.from_pretrained(folder, dtype=dtype, rounding=ROUNDED.get(suffix))
    if thinker.decoder.embed.weight.dtype not in SERVED:
        convert(thinker, compute_dtype(place))
    put_on(thinker, place)
    return ThinkerReasoner(thinker, name=name)


def place_of(name: str, device: str = AUTO) -> str:
    """The name of the device on which a model computes that `known_model` knows; empty for one that runs elsewhere.

    Raises ConfigError for a device that does not go with the model.
    """
    if name.startswith(ENDPOINT):
        if device != AUTO:
            raise ConfigError(f"device is {device!r} and the model {name!r}, which runs elsewhere; wanted {AUTO}")
        return ""
    _, folder, suffix = name_parts(name)
    if suffix and device not in (AUTO, "cpu"):
        raise ConfigError(f"device is {device!r} and the model {name!r}, rounded for processors; wanted cpu")
    if device != AUTO:
        return device
    return "cpu" if folder == NANO or suffix else automatic()


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
