"""A thinker's folder: config.json, model.safetensors, tokenizer.json. safetensors and JSON only, never pickle."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from foveate.errors import CheckpointError, ConfigError
from foveate.models.config import ThinkerConfig, from_json
from foveate.models.thinker import Thinker
from foveate.models.tokenizer import TextCodec

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


def nano_path() -> Path:
    """The folder of the checkpoint that ships with the package."""
    return Path(__file__).parent / "nano" / "weights"


def load_thinker(folder: Path, dtype: torch.dtype | None) -> Thinker:
    """Read a checkpoint folder in evaluation mode. Raises CheckpointError naming the file and the key that is wrong."""
    config = read_config(folder / CONFIG)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {folder / WEIGHTS}: {error}") from error
    with torch.device("meta"):
        thinker = Thinker(config, TextCodec.from_file(folder / TOKENIZER))
    wanted = {name: p.shape for name, p in thinker.named_parameters()}
    for name, shape in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"{folder / WEIGHTS} lacks the tensor {name} that {CONFIG} asks for")
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {name} has shape {list(tensors[name].shape)}, wanted {list(shape)} by {CONFIG}"
            )
    if extra := tensors.keys() - wanted.keys():
        raise CheckpointError(f"{folder / WEIGHTS} holds the tensor {min(extra)} that {CONFIG} does not know")
    thinker.load_state_dict(tensors, strict=False, assign=True)
    if config.decoder.tie_embeddings:
        thinker.decoder.head.weight = thinker.decoder.embed.weight
    thinker.requires_grad_(False)
    return thinker.eval() if dtype is None else thinker.to(dtype).eval()


def read_config(path: Path) -> ThinkerConfig:
    """Read config.json. Raises CheckpointError when it is missing, is no JSON, or asks for code of its own."""
    try:
        values = json.loads(path.read_text())
        if "auto_map" in values:
            raise CheckpointError(f"{path} holds the key auto_map: code from a checkpoint is never run; remove the key")
        return from_json(ThinkerConfig, values)
    except OSError as error:
        raise CheckpointError(f"no checkpoint at {path.parent}: {error.strerror} ({path.name})") from error
    except (json.JSONDecodeError, ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def save_thinker(thinker: Thinker, folder: Path, dtype: torch.dtype | None) -> None:
    """Write the folder, weights in `dtype` or as they are; each file is renamed into place when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().to(dtype or p.dtype).contiguous() for name, p in thinker.named_parameters()}
    save_file(tensors, folder / f"{WEIGHTS}.new", metadata={"format": "pt"})
    (folder / f"{CONFIG}.new").write_text(json.dumps(thinker.config.to_json(), indent=2) + "\n")
    thinker.processor.codec.tokenizer.save(str(folder / f"{TOKENIZER}.new"))
    for name in (WEIGHTS, CONFIG, TOKENIZER):
        (folder / f"{name}.new").replace(folder / name)
