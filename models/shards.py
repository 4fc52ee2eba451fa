"""The tensors of a folder's safetensors files, mapped: a page is read when it is used, and none is copied.

The mapping is private: what is written to a tensor stays in this process. The library checks the files and hands out
each tensor by itself; ours are sometimes several that stand one after another in a file, which one view can span.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from foveate.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class Shards:
    """Names of all tensors and the file that holds each."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError when the folder holds no safetensors, or one that cannot be read."""
        self.folder = folder
        self.file_of: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        self._whole: dict[Path, Tensor] = {}
        self._begins: dict[str, int] = {}
        for path in self._files():
            with _named(path):
                self._open[path] = safe_open(path, framework="pt")  # for as long as tensors are read
            self.file_of |= dict.fromkeys(self._open[path].keys(), path)

    def __str__(self) -> str:
        """The file, or the folder when there are several."""
        files = set(self.file_of.values())
        return str(files.pop() if len(files) == 1 else self.folder)

    def read(self, name: str) -> Tensor:
        """A tensor that is mapped from its file. Raises CheckpointError for one of whole or of scaled numbers."""
        path = self.file_of[name]
        with _named(path):
            tensor: Tensor = self._open[path].get_tensor(name)
        if tensor.dtype not in DTYPES:
            found, *wanted = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, *DTYPES))
            raise CheckpointError(f"{path}: {name} has dtype {found}, wanted one of {', '.join(wanted)}")
        return tensor

    def span(self, names: Sequence[str], parts: Sequence[Tensor]) -> Tensor | None:
        """The rows of all tensors as one, mapped, where one follows the other in one file; None where they do not."""
        path = self.file_of[names[0]]
        if any(self.file_of[name] != path for name in names) or len({part.dtype for part in parts}) > 1:
            return None
        if path not in self._whole:
            self._map(path)
        begins = [self._begins[name] for name in names]
        ends = [begin + part.nbytes for begin, part in zip(begins, parts, strict=True)]
        if any(end != begin for end, begin in zip(ends, begins[1:], strict=False)) or begins[0] % parts[0].itemsize:
            return None
        numbers = self._whole[path][begins[0] : ends[-1]].view(parts[0].dtype)
        return numbers.view(-1, *parts[0].shape[1:])

    def _map(self, path: Path) -> None:
        """Map a file that the library has checked, as bytes, and note where each tensor begins."""
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        self._whole[path] = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        self._begins |= {
            name: 8 + size + entry["data_offsets"][0] for name, entry in header.items() if "shape" in entry
        }

    def _files(self) -> list[Path]:
        """The single file where there is one, as transformers has it, else those that the index names."""
        single = self.folder / SINGLE
        names = [] if single.is_file() else [name for name in shard_names(self.folder) if name != INDEX]
        if not names and not single.is_file() and (pickle := self._pickle()):
            raise CheckpointError(
                f"{pickle} is a pickle, which can run code when it is read; wanted {SINGLE} (convert it first)"
            )
        return [self.folder / name for name in names] or [single]

    def _pickle(self) -> Path | None:
        return next((path for pattern in PICKLES for path in sorted(self.folder.glob(pattern))), None)


def shard_names(folder: Path) -> list[str]:
    """The index of a folder whose weights lie in several files, and those files; none where they lie in one.

    Raises CheckpointError for what is no index.
    """
    index = folder / INDEX
    if not index.is_file():
        return []
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is no index of safetensors files: {error!r}") from error
    if outside:
        raise CheckpointError(f"{index} names the file {outside[0]!r}, wanted one beside it")
    return [INDEX, *sorted(names)]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error of the library names the file."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
