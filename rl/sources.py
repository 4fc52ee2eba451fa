"""A short name of what decides the lines of a file, which each of them carries: a run goes on with its own alone."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from foveate.models.checkpoint import nano_path
from foveate.models.snapshot import NANO
from foveate.paths import expanded, is_file
from foveate.rl.suite import ANSWERS

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


def weights_of(name: str) -> list[Path]:
    """The files of a checkpoint that lies here: a folder's weights or a file itself, nano's; none of the hub's."""
    path = nano_path() if name == NANO else expanded(name)
    return [path] if is_file(path) else weights_in(path)


def answers_of(folder: str | Path) -> list[Path]:
    """The questions of a folder of them, and their pictures."""
    path = expanded(folder) / ANSWERS
    if not is_file(path):
        return []
    named = dict[str, None]()
    for line in path.read_bytes().split(b"\n"):
        with suppress(ValueError, KeyError, TypeError):  # whoever asks the questions says what is wrong with a line
            named[str(json.loads(line)["image"])] = None
    return [path, *(picture for name in named if is_file(picture := path.parent / name))]


def files_of(name: str) -> list[Path]:
    """A file, or all that is in a folder, such as a dataset's."""
    path = expanded(name)
    return [path] if is_file(path) else sorted(file for file in path.rglob("*") if file.is_file())


def weights_in(folder: Path) -> list[Path]:
    """The files of a checkpoint that decide what its model says; none where there is no such folder.

    Not what a training keeps beside them to go on: that may be removed when it is done.
    """
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("checkpoint"))
