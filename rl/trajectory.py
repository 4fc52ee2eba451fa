"""Trajectories on disk: FILE.jsonl, log-probabilities in FILE.safetensors, pictures by their hash in FILE.images/.

A line is one conversation: the question and its right answer, the messages with the ids that were sampled, how it
ended. Laid out again by a processor it gives the very transcript that was sampled, so a file can be trained on,
replayed and looked at.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.agent.images import ImageStore
from foveate.agent.messages import image_part, resolve
from foveate.errors import InputError
from foveate.models.reasoner import Message
from foveate.rl.lines import lines_of
from foveate.rl.rollout import Trajectory

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Saved:
    """A trajectory that was read back."""

    id: str
    group: int
    family: str
    question: str
    expected: str
    answer: str
    right: bool
    status: str
    tool_calls: int
    messages: tuple[Message, ...]
    """Pictures by reference; `pictures` has them."""
    sampled_S: Tensor
    pictures: ImageStore

    def resolved(self) -> list[Message]:
        """The messages with their pictures, as a processor takes them."""
        return resolve(self.messages, self.pictures.get)


def write_trajectories(path: Path, trajectories: Iterable[Trajectory]) -> int:
    """Write trajectories that kept their messages as they come; returns how many.

    Where that breaks off, the file holds those that had come.
    """
    pictures, logprobs = _pictures(path), dict[str, Tensor]()
    beside = path.with_suffix(".safetensors")
    beside.unlink(missing_ok=True)
    try:
        with path.open("w", encoding="utf-8") as file:
            for idx, trajectory in enumerate(trajectories):
                file.write(json.dumps(_line(trajectory, pictures), ensure_ascii=False) + "\n")
                logprobs[str(idx)] = trajectory.sampled_S
    finally:
        save_file(logprobs, beside, metadata={"schema_version": str(SCHEMA_VERSION)})
    return len(logprobs)


def read_trajectories(path: Path) -> Iterator[Saved]:
    """Read what `write_trajectories` wrote. Raises InputError naming the file and the line that is wrong."""
    pictures = _pictures(path)
    try:
        lines = lines_of(path)
        logprobs = load_file(path.with_suffix(".safetensors"))
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise InputError(f"cannot read trajectories from {path}: {error}") from error
    for idx, line in enumerate(lines):
        try:
            record = json.loads(line)
            version = record.pop("schema_version")
            saved = Saved(
                **record | {"messages": tuple(record["messages"])}, sampled_S=logprobs[str(idx)], pictures=pictures
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}:{idx + 1} is no trajectory ({error!r}); write it with foveate rollout") from error
        if version != SCHEMA_VERSION:
            raise InputError(f"{path}:{idx + 1} has schema_version {version!r}, wanted {SCHEMA_VERSION}")
        yield saved


def _pictures(path: Path) -> ImageStore:
    return ImageStore(path.with_suffix(".images"))


def _line(trajectory: Trajectory, pictures: ImageStore) -> dict[str, Any]:
    item = trajectory.job.item
    return {
        "schema_version": SCHEMA_VERSION,
        "id": item.id,
        "group": trajectory.job.group,
        "family": item.family,
        "question": item.question,
        "expected": item.answer,
        "answer": trajectory.answer,
        "right": trajectory.right,
        "status": trajectory.status,
        "tool_calls": trajectory.tool_calls,
        "messages": [_by_reference(message, pictures) for message in trajectory.messages],
    }


def _by_reference(message: Message, pictures: ImageStore) -> Message:
    if isinstance(message["content"], str):
        return message
    parts = [image_part(_stored(part, pictures)) if "image" in part else part for part in message["content"]]
    return {**message, "content": parts}


def _stored(part: dict[str, Any], pictures: ImageStore) -> str:
    """The name of a picture, which is stored unless it is already: samples of a prompt show the same."""
    named: str = part.get("sha256", "")
    return named if named in pictures else pictures.put(part["image"])
