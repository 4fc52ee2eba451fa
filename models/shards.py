"""The tensors of a folder's safetensors files, each read when it is asked for: no second copy is ever in memory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from foveate.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Shards:
    """Names of all tensors and the file that holds each."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError when the folder holds no safetensors, or one that cannot be read."""
        self.folder = folder
        self.file_of: dict[str, Path] = {}
        for path in self._files():
            with _opened(path) as file:
                self.file_of |= dict.fromkeys(file.keys(), path)

    def __str__(self) -> str:
        """The file, or the folder when there are several."""
        files = set(self.file_of.values())
        return str(files.pop() if len(files) == 1 else self.folder)

    def read(self, name: str) -> Tensor:
        """A tensor that is mapped from its file; pages of it that were read go when it goes."""
        with _opened(self.file_of[name]) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def _files(self) -> list[Path]:
        index = self.folder / INDEX
        if not index.is_file():
            if not (self.folder / SINGLE).is_file() and (pickle := self._pickle()):
                raise CheckpointError(
                    f"{pickle} is a pickle, which can run code when it is read; wanted {SINGLE} (convert it first)"
                )
            return [self.folder / SINGLE]
        try:
            names = json.loads(index.read_text())["weight_map"].values()
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index} is no index of safetensors files: {error!r}") from error
        for name in names:
            if Path(name).name != name:
                raise CheckpointError(f"{index} names the file {name!r}, wanted one beside it")
        return [self.folder / name for name in sorted(set(names))]

    def _pickle(self) -> Path | None:
        return next((path for pattern in PICKLES for path in sorted(self.folder.glob(pattern))), None)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
