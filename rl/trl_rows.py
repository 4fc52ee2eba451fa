"""Preference datasets in the form of TRL: rows of prompt, chosen and rejected, with pictures in a column `images`.

Read as they are: a .jsonl file, a .parquet file, or a folder of `Dataset.save_to_disk`. A side is a text or messages in
the OpenAI chat form; a prompt that is not there is what both sides begin with. Pictures are files (in .jsonl named as
seen from its folder) or stored in the row; each stands where the messages say {"type": "image"}, or, where they say
nothing, before the first text of the user.

TRL has no pictures in answers: in the files of foveate.rl.pair_rows they stand in `chosen_images` and
`rejected_images`, which it does not read and we do.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from foveate.errors import ImageError, InputError
from foveate.extras import from_extra
from foveate.models.chat import BESIDE_CONTENT
from foveate.models.prefix import common_length
from foveate.models.reasoner import Message
from foveate.pictures import open_picture
from foveate.rl.lines import lines_of
from foveate.rl.pairs import Preference

SIDES = ("chosen", "rejected")
NO_ROW = (KeyError, TypeError, AttributeError, ValueError, OSError, ImageError)
"""What comes of a row, or a picture in it, that is not what it should be."""


class TrlRows:
    """The preferences of a dataset, read row by row."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for what is no dataset, ConfigError without the package `datasets` where it is needed."""
        self.path = path
        self._rows = open_rows(path)
        columns = columns_of(self._rows)
        missing = [side for side in SIDES if len(self._rows) and side not in columns]
        if missing:
            raise InputError(f"{path} has no column {missing[0]!r}, wanted chosen, rejected and perhaps prompt, images")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, idx: int) -> Preference:
        """Row `idx`. Raises InputError when it is no preference."""
        if not 0 <= idx < len(self):
            raise IndexError(idx)
        try:
            return preference_of(self._rows[idx], self.path.parent)
        except NO_ROW as error:
            raise InputError(f"{error}; wanted TRL's prompt, chosen and rejected") from error


class Rows(Protocol):
    """Rows by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, idx: int) -> Mapping[str, Any]: ...


def open_rows(path: Path) -> Rows:
    """The rows of a dataset. Raises as TrlRows does."""
    return _lines(path) if path.suffix == ".jsonl" else _dataset(path)


def columns_of(rows: Rows) -> Collection[str]:
    """Names of the columns; of a dataset without a look at its first row, whose picture may be broken."""
    names: Collection[str] = getattr(rows, "column_names", None) or (rows[0].keys() if len(rows) else ())
    return names


def preference_of(row: Mapping[str, Any], folder: Path) -> Preference:
    """A row with its pictures in their places. Raises ValueError for a side or a picture that does not fit."""
    prompt, chosen, rejected = _split(row)
    return Preference(
        prompt=offering(tools_of(row), _filled(_messages(prompt, "user"), pictures_of(row), folder)),
        chosen=_filled(_messages(chosen, "assistant"), row.get("chosen_images") or [], folder),
        rejected=_filled(_messages(rejected, "assistant"), row.get("rejected_images") or [], folder),
    )


def pictures_of(row: Mapping[str, Any]) -> list[Any]:
    """What stands in `images`, or the one in `image`."""
    return list(row.get("images") or ([row["image"]] if row.get("image") is not None else []))


def tools_of(row: Mapping[str, Any]) -> list[Any]:
    """What stands in `tools`: schemas, or their JSON."""
    tools = row.get("tools") or []
    return list(json.loads(tools) if isinstance(tools, str) else tools)


def offering(tools: list[Any], messages: list[Message]) -> list[Message]:
    """The messages of which the first has the tools, for a template that lays them out."""
    return [{**messages[0], "tools": tools}, *messages[1:]] if tools and messages else messages


def _split(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    chosen, rejected = (row[side] for side in SIDES)
    prompt = row.get("prompt")
    repeated = isinstance(prompt, str) and not isinstance(chosen, str) and chosen and chosen[0]["role"] != "assistant"
    if prompt is not None and not repeated:
        return prompt, chosen, rejected
    roles = [message["role"] for message in chosen] if repeated else []
    asked = roles.index("assistant") if "assistant" in roles else 0
    shared = common_length(chosen, rejected) if rejected else asked
    if not shared:
        raise ValueError("there is no prompt, and chosen and rejected do not begin alike")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _messages(side: str | Sequence[Message], role: str) -> list[Message]:
    """A text as one message; an assistant's content as text."""
    if isinstance(side, str):
        return [{"role": role, "content": side}]
    messages = []
    for message in side:
        for key in (*BESIDE_CONTENT, "thinking"):
            if message.get(key):
                raise ValueError(f"a message has {key}; write all into its content, as the model's template does")
        content = message["content"]
        if message["role"] == "assistant" and not isinstance(content, str):
            content = "".join(part["text"] for part in content)
        messages.append({"role": message["role"], "content": content})
    return messages


def _filled(messages: list[Message], images: Sequence[Any], folder: Path) -> list[Message]:
    """The messages with each picture in its place."""
    if images and all(isinstance(message["content"], str) for message in messages):
        first = next((message for message in messages if message["role"] == "user"), None)
        if first is None:
            raise ValueError(f"{len(images)} pictures and no message of a user to show them in")
        first["content"] = [*({"type": "image"} for _ in images), {"type": "text", "text": first["content"]}]
    left = iter(images)
    filled = [{**message, "content": _parts(message["content"], left, folder)} for message in messages]
    if next(left, None) is not None:
        raise ValueError(f"{len(images)} pictures, which are more than the messages have places for")
    return filled


def _parts(content: str | Sequence[Mapping[str, Any]], images: Iterator[Any], folder: Path) -> str | list[Any]:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for part in content:
        if part["type"] != "image":
            parts.append({"type": "text", "text": part["text"]})
            continue
        image = next(images, None)
        if image is None:
            raise ValueError("the messages have more places for pictures than there are pictures")
        beside = {key: value for key, value in part.items() if value is not None and key != "text"}
        parts.append({**beside, "image": _picture(image, folder)})
    return parts


def _picture(source: Any, folder: Path) -> Image.Image | Path:
    """A picture of a row: decoded, as bytes, or a file that lies here."""
    if isinstance(source, Mapping):
        source = open_picture(source["bytes"]) if source.get("bytes") else source["path"]
    if isinstance(source, Image.Image):
        return source
    path = folder / str(source)
    if not path.is_file():
        raise ValueError(f"there is no picture {path}")
    return path


def _lines(path: Path) -> list[Mapping[str, Any]]:
    try:
        rows = [json.loads(line) for line in lines_of(path)]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read preferences from {path}: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} has a line that is no JSON object, wanted one with prompt, chosen and rejected")
    return rows


class _ArrowRows:
    """Rows of a dataset with pictures as their files: the package would open any kind of file, and fetch addresses."""

    def __init__(self, dataset: Any) -> None:
        self.column_names: list[str] = dataset.column_names
        self._dataset = dataset.with_format("arrow")

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Mapping[str, Any]:
        row: dict[str, Any] = self._dataset[idx].to_pylist()[0]
        return {**row, "tools": _without_none(row["tools"])} if row.get("tools") else row


def _without_none(value: Any) -> Any:
    """What was written: Arrow gives every object the keys of all others in its column."""
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list) else value


def _dataset(path: Path) -> "_ArrowRows":
    """A dataset of the package `datasets`, from disk."""
    with from_extra("trl", "datasets, which TRL's form needs,"):
        import datasets
    try:
        parquet = path.suffix == ".parquet"
        found = datasets.Dataset.from_parquet(str(path)) if parquet else datasets.load_from_disk(str(path))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"cannot read preferences from {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(found, datasets.DatasetDict):
        return _ArrowRows(found)
    if list(found) != ["train"]:
        raise InputError(f"{path} has the splits {', '.join(found)}; wanted one of them, as {path / next(iter(found))}")
    return _ArrowRows(found["train"])
