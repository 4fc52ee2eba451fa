"""What a line that was typed names: a picture, typed, quoted or dropped by a file manager, or one that is not there."""

import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from foveate.paths import existing_file

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_BEGINNINGS = ("/", "~/", "./", "../", "file://")


def picture_path(line: str) -> Path | None:
    """The file that the whole line names; None when there is none.

    A bare word without a suffix is none, whatever lies in the folder: it may be a question.
    """
    for text in _readings(line):
        path = existing_file(text)
        if path is not None and (path.suffix or "/" in text):
            return path
    return None


def picture_paths(line: str) -> list[Path]:
    """Several files that a line names and nothing else, as a file manager drops them; none where it does not."""
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    paths = [picture_path(shlex.quote(word)) for word in words]
    return [path for path in paths if path is not None] if len(words) > 1 and all(paths) else []


def missing_picture(line: str) -> str | None:
    """The path of a picture that the whole line must mean though no such file is there; None for anything else."""
    text = unquoted(line)
    one_word = text != line.strip() or not any(letter.isspace() for letter in text.replace("\\ ", ""))
    if Path(text).suffix.lower() in PICTURE_SUFFIXES and (one_word or text.startswith(_BEGINNINGS)):
        return None if picture_path(line) else text
    return None


def unquoted(text: str) -> str:
    """The text without spaces around it and without the quotes that a shell would take away."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _readings(line: str) -> Iterator[str]:
    """The path as it stands, as the address of a file, and as a shell would read its quotes and backslashes."""
    text = unquoted(line)
    yield from (text, unquote(text.removeprefix("file://")), text.replace("\\ ", " "))
    with suppress(ValueError):
        words = shlex.split(line)
        if len(words) == 1:
            yield words[0]
