"""Pairs of rollouts as a .parquet file in the form of TRL, which foveate.rl.trl_rows reads.

    tools                        schemas of the model's tools as JSON, where its template lays them out
    prompt, images               what both say before the assistant speaks, and its pictures
    chosen, chosen_images        each side from there on. TRL knows no pictures in answers: it does not read
    rejected, rejected_images    the columns of crops, and we do
    reason                       foveate.rl.pairs says which there are

Rows go to the file a few at a time: no more pictures than those of PART pairs are in memory.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.extras import from_extra
from foveate.models.reasoner import Message
from foveate.rl.pairs import Pair
from foveate.rl.trajectory import Saved
from foveate.rl.trl_rows import SIDES
from foveate.rl.writing import beside

PART = 16
"""Pairs that are written at once."""
Row = dict[str, Any]


def write_rows(pairs: Iterable[Pair], path: Path) -> int:
    """Write pairs as they come; returns how many. The file is there when all are.

    Raises InputError for no pair, another suffix or a file that cannot be written, ConfigError without `datasets`.
    """
    if path.suffix != ".parquet":
        raise InputError(f"got the file {path}, wanted a name that ends in .parquet")
    with from_extra("trl", "datasets, which TRL's form needs,"):
        import datasets
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

    images, text = datasets.List(datasets.Image()), datasets.Value("string")
    messages = datasets.List({"role": text, "content": datasets.List({"type": text, "text": text})})
    columns = {"tools": text, "prompt": messages, "images": images}
    for side in SIDES:
        columns |= {side: messages, f"{side}_images": images}
    schema = datasets.Features(columns | {"reason": text}).arrow_schema
    fresh, count = beside(path), 0
    try:
        with fresh.open("wb") as file, ParquetWriter(file, schema) as writer:
            for rows in _parts(pairs):
                writer.write_table(pa.Table.from_pylist(rows, schema))
                count += len(rows)
        if not count:
            raise InputError("there is no pair to write; wanted right and wrong answers to the same question")
        fresh.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); name another file") from error
    finally:
        with suppress(OSError):
            fresh.unlink()
    return count


def _parts(pairs: Iterable[Pair]) -> Iterator[list[Row]]:
    """Rows of PART pairs; a picture that several of them show is made a file once."""
    left = iter(pairs)
    while part := list(islice(left, PART)):
        files: dict[str, Row] = {}
        yield [_row(pair, files) for pair in part]


def _row(pair: Pair, files: dict[str, Row]) -> Row:
    tools = next((message["tools"] for message in pair.chosen.messages if message.get("tools")), None)
    row: Row = {"reason": pair.reason, "tools": tools and json.dumps(tools)}
    for side, saved in zip(SIDES, (pair.chosen, pair.rejected), strict=True):
        start = next(idx for idx, message in enumerate(saved.messages) if message["role"] == "assistant")
        row["prompt"], row["images"] = _emptied(saved, saved.messages[:start], files)
        row[side], row[f"{side}_images"] = _emptied(saved, saved.messages[start:], files)
    return row


def _emptied(saved: Saved, messages: Sequence[Message], files: dict[str, Row]) -> tuple[list[Message], list[Row]]:
    """Messages without their pictures, and the pictures in order."""
    images: list[Row] = []
    emptied = []
    for message in messages:
        content = message["content"]
        parts: list[Row] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for sha256 in (part["sha256"] for part in parts if part["type"] == "image"):
            if sha256 not in files:
                files[sha256] = _file(saved, sha256)
            images.append(files[sha256])
        kept = [{"type": part["type"], "text": part.get("text")} for part in parts]
        emptied.append({"role": message["role"], "content": kept})
    return emptied, images


def _file(saved: Saved, sha256: str) -> Row:
    """A picture as `datasets` stores one."""
    data = io.BytesIO()
    saved.pictures.get(sha256).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}
