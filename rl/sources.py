"""A short name of what decides the lines of a file, which each of them carries: a run goes on with its own alone."""

import hashlib
from pathlib import Path

PARTS = 64
PART_BYTES = 1 << 16


def source_of(*deciding: object) -> str:
    """16 letters and digits that differ where what decides differs; each part is taken by its repr."""
    return hashlib.blake2b(repr(deciding).encode(), digest_size=8).hexdigest()


def stamps_of(*files: Path) -> list[tuple[str, int, str]]:
    """Name, size in bytes and a hash of parts of each file: a copy has the same, weights that learned have another."""
    return [(file.name, file.stat().st_size, _hash_of_parts(file)) for file in files]


def _hash_of_parts(file: Path) -> str:
    """Of PARTS parts, evenly spread over the file; a small one is read whole."""
    found, size = hashlib.blake2b(digest_size=8), file.stat().st_size
    with file.open("rb") as opened:
        if size <= PARTS * PART_BYTES:
            found.update(opened.read())
        else:
            for part in range(PARTS):
                opened.seek((size - PART_BYTES) * part // (PARTS - 1))
                found.update(opened.read(PART_BYTES))
    return found.hexdigest()


def files_of(path: Path) -> list[Path]:
    """The files that decide what a name stands for: a file itself, a folder's weights, or all that is in it."""
    if path.is_file():
        return [path]
    return weights_in(path) or sorted(file for file in path.rglob("*") if file.is_file())


def weights_in(folder: Path) -> list[Path]:
    """The files of a checkpoint that decide what its model says; none where there is no such folder."""
    return sorted(folder.glob("*.safetensors"))
