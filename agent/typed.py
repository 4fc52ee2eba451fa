"""What a line that was typed names: a picture, typed, quoted or dropped by a file manager, or one that is not there."""

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from foveate.errors import InputError
from foveate.paths import existing_file, expanded, is_folder

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


def refuse_path(line: str) -> None:
    """Raises InputError for what is a path, or begins with one, and cannot be meant as a question."""
    first = line.partition("\n")[0].strip()
    name, _, rest = first.partition(" ")
    if missing := missing_pictures(line) or missing_pictures(first):
        raise InputError(f"there is no file {', '.join(missing)}; type the path of a picture, or a question")
    if (path := path_of_none(first)) is not None:
        raise InputError(f"{path} is no picture; type the path of one, or a question")
    for word in (name, first_word(first) or name):
        if word != line and picture_path(shlex.quote(word)) is not None:
            raise InputError(f"send {word} on a line of its own, and then the question")
    if line.startswith("/") and (not rest or re.fullmatch(r"/[a-z]+", name)):
        raise InputError(f"there is no command or file {name}; /help lists the commands")


def missing_pictures(line: str) -> list[str]:
    """The paths of pictures that the whole line must mean though no such files are there; none for anything else."""
    with suppress(ValueError):
        words = shlex.split(line)
        if len(words) > 1 and all(Path(word).suffix.lower() in PICTURE_SUFFIXES for word in words):
            return [word for word in words if picture_path(shlex.quote(word)) is None]
    text = unquoted(line)
    one_word = text != line.strip() or not any(letter.isspace() for letter in text.replace("\\ ", ""))
    if Path(text).suffix.lower() in PICTURE_SUFFIXES and (one_word or text.startswith(_BEGINNINGS)):
        return [] if picture_path(line) else [text]
    return []


def path_of_none(line: str) -> str | None:
    """The path of a folder, or of anything that is not there, that the whole line is; None for anything else."""
    text = unquoted(line)
    is_path = "/" in text and is_folder(expanded(text))
    return text if is_path or (text.startswith(_BEGINNINGS[1:]) and not any(map(str.isspace, text))) else None


def first_word(line: str) -> str | None:
    """The first word as a shell would read it; None when it reads none."""
    reader = shlex.shlex(line, posix=True)
    reader.whitespace_split, reader.commenters = True, ""
    try:
        return reader.get_token()
    except ValueError:
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
