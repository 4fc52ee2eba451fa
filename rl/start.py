"""What a stage starts from: tensors that an earlier stage kept, all there and of this model, or refused in one line."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from foveate.agent.plain import one_line
from foveate.errors import ConfigError

VISION, TOKEN_HEADS = "vision.", "token_heads."
"""How the names of a tower's tensors begin, and those of the readouts of its image tokens."""
NAMED = 3
"""Tensors that an error names."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises ConfigError when it is not there, or holds none."""
    if not path.is_file():
        raise ConfigError(f"stage.start is {path}, which does not exist; train the stage before, or set it")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        wanted = "a tower.safetensors of stage 1, or of stage 2 and 3 a checkpoint folder"
        raise ConfigError(f"stage.start: {path} cannot be read ({one_line(str(error))}); wanted {wanted}") from error


def load_part(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: Path) -> None:
    """Take over the tensors of a file whose names begin with `prefix`.

    Raises ConfigError unless they are those of the module, each in its shape.
    """
    given = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    wanted = dict(module.named_parameters())
    both = [name for name in wanted if name in given]
    faults = {
        "lacks": [name for name in wanted if name not in given],
        "has in another shape": [name for name in both if given[name].shape != wanted[name].shape],
        "has beyond what is wanted": [name for name in given if name not in wanted],
    }
    for fault, names in faults.items():
        if names:
            named = ", ".join(f"{prefix}{name}" for name in names[:NAMED])
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            raise ConfigError(f"stage.start: {path} {fault} {named}{more}; wanted what stage 1 of this preset keeps")
    module.load_state_dict(given, strict=False)
