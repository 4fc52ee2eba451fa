"""A short name of what decides the lines of a file, which each of them carries: a run goes on with its own alone."""

import hashlib
from pathlib import Path


def source_of(*deciding: object) -> str:
    """16 letters and digits that differ where what decides differs; each part is taken by its repr."""
    return hashlib.blake2b(repr(deciding).encode(), digest_size=8).hexdigest()


def stamps_of(*files: Path) -> list[tuple[str, int, int]]:
    """Name, size in bytes and time of change of each file."""
    found = [(file.name, file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def weights_in(folder: Path) -> list[Path]:
    """The files of a checkpoint that decide what its model says; none where there is no such folder."""
    return sorted(folder.glob("*.safetensors"))
