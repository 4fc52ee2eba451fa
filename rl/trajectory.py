"""Trajectories on disk, each there for good as soon as it has ended.

    FILE.jsonl                    a line a conversation: the question and what is right, the messages with the ids as
                                  they were sampled, the run with every step and box, how it ended and what it earned
    FILE.logprobs/N.safetensors   log-probabilities at sampling, PART conversations in each
    FILE.images/                  pictures by the hash of their pixels

Log-probabilities are those of the whole distribution at temperature 1, whatever temperature the tokens were drawn at.
Laid out again by a processor a line gives the very transcript that was sampled, so a file can be trained on, replayed
and looked at (foveate.rl.traces). Log-probabilities are replaced whole and before their line is written, so a kill
leaves a file that can be read to its last whole line and gone on with from there. A file is of one run: each line says
which, and lines of another model or of other settings are never added to it.
"""

import fcntl
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foveate.agent.images import ImageStore
from foveate.agent.messages import image_part, resolve
from foveate.agent.records import Status
from foveate.errors import InputError
from foveate.models.reasoner import Message
from foveate.rl.lines import whole_lines
from foveate.rl.reward import Kind
from foveate.rl.rollout import Trajectory, ended_by_itself
from foveate.rl.writing import append, made, replaced
from foveate.tools.tool import Box

SCHEMA_VERSION = 2
PART = 64
"""Conversations in a file of log-probabilities."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Saved:
    """A trajectory that was read back."""

    id: str
    group: int
    family: str
    question: str
    expected: str
    accept: tuple[str, ...] = ()
    """Other right spellings of the answer."""
    kind: Kind = "any"
    evidence: tuple[Box, ...] = ()
    """What has to be read, in pixels of the picture; empty when that is not known."""
    seed: int = 0
    answer: str
    right: bool
    reward: float
    """1 for a right answer; what length and bonus add is a training's to say, from the numbers here."""
    status: Status
    tool_calls: int
    """Those that did not fail."""
    saw_evidence: bool = False
    """Whether a crop showed what has to be read."""
    errors: int = 0
    """Turns that were neither a call nor an answer."""
    messages: tuple[Message, ...]
    """Pictures by reference; `pictures` has them."""
    run: dict[str, Any]
    """`Answer.to_json()`."""
    source: str = ""
    """Which run wrote it."""
    sampled_S: Tensor
    pictures: ImageStore

    @property
    def is_whole(self) -> bool:
        """See ended_by_itself."""
        return ended_by_itself(self.status, self.sampled_S)

    def resolved(self) -> list[Message]:
        """The messages with their pictures, as a processor takes them."""
        return resolve(self.messages, self.pictures.get)


class Logprobs:
    """Log-probabilities of a file's conversations, one part of them in memory."""

    def __init__(self, path: Path) -> None:
        self.folder = path.with_suffix(".logprobs")
        self.number, self.part = -1, dict[str, Tensor]()

    def __getitem__(self, idx: int) -> Tensor:
        """Those of a conversation. Raises KeyError when they are not there, InputError for a part that is broken."""
        self._open(idx // PART)
        return self.part[str(idx)]

    def __setitem__(self, idx: int, sampled_S: Tensor) -> None:
        """Keep those of a conversation; its part is replaced whole."""
        self._open(idx // PART)
        self.part[str(idx)] = sampled_S
        made(self.folder)
        with replaced(self._file()) as fresh:
            save_file(self.part, fresh, metadata={"schema_version": str(SCHEMA_VERSION)})

    def _open(self, number: int) -> None:
        if number == self.number:
            return
        self.number = number
        try:
            self.part = _numbers_of(self._file()) if self._file().is_file() else {}
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(f"cannot read {self._file()} ({error}); write it anew with foveate rollout") from error

    def _file(self) -> Path:
        return self.folder / f"{self.number:05}.safetensors"


def _numbers_of(path: Path) -> dict[str, Tensor]:
    """Raises ValueError for those of another version."""
    with safe_open(path, framework="pt") as file:
        if (version := (file.metadata() or {}).get("schema_version")) != str(SCHEMA_VERSION):
            raise ValueError(f"schema_version is {version!r}, wanted '{SCHEMA_VERSION}'")
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping


def write_trajectories(
    path: Path, trajectories: Iterable[Trajectory], *, source: str = "", resume: bool = False
) -> int:
    """Write trajectories that kept their messages as they come; returns how many.

    They are the first of a file that holds none yet or, with `resume`, come after those that it holds. Raises
    InputError for a file that holds any without `resume`, or is of another `source`, CheckpointError for what the disk
    refuses.
    """
    pictures, logprobs, count = ImageStore(path.with_suffix(".images")), Logprobs(path), 0
    with _appending(path) as file:
        held = count_trajectories(path, source)
        if held and not resume:
            raise InputError(f"{path} holds {held} conversations; go on with --resume, or name another file")
        file.truncate(len(_whole(path)))
        for count, trajectory in enumerate(trajectories, start=1):
            line = json.dumps(_line(trajectory, source, pictures), ensure_ascii=False)
            logprobs[held + count - 1] = trajectory.sampled_S
            append(path, f"{line}\n")
    return count


def count_trajectories(path: Path, source: str) -> int:
    """How many a file holds, 0 when it is not there. Raises InputError when they are not of this `source`."""
    lines = _lines(path) if path.is_file() else []
    for idx in {0, len(lines) - 1} if lines else ():
        found = _record(path, idx, lines[idx]).get("source")
        if found != source:
            raise InputError(
                f"{path}:{idx + 1} is of run {found!r}, wanted {source!r}, which has another model or other settings; "
                "name another file"
            )
    return len(lines)


def read_trajectories(path: Path) -> Iterator[Saved]:
    """Read what `write_trajectories` wrote. Raises InputError naming the file and the line that is wrong."""
    pictures, logprobs = ImageStore(path.with_suffix(".images")), Logprobs(path)
    source = None
    for idx, line in enumerate(_lines(path)):
        record = _record(path, idx, line)
        try:
            saved = Saved(**record | _tuples(record), sampled_S=logprobs[idx], pictures=pictures)
        except (ValueError, KeyError, TypeError) as error:
            raise _no_trajectory(path, idx, error) from error
        if source not in (None, saved.source):
            raise InputError(f"{path}:{idx + 1} is of run {saved.source!r}, those before it of {source!r}; part them")
        source = saved.source
        yield saved


def _whole(path: Path) -> bytes:
    try:
        return whole_lines(path)
    except OSError as error:
        raise InputError(f"cannot read trajectories from {path}: {error.strerror}") from error


def _lines(path: Path) -> list[str]:
    try:
        return _whole(path).decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read trajectories from {path}: {error}") from error


def _record(path: Path, idx: int, line: str) -> dict[str, Any]:
    """A line's values but for the version, which is checked."""
    try:
        record: dict[str, Any] = json.loads(line)
        version = record.pop("schema_version")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_trajectory(path, idx, error) from error
    if version != SCHEMA_VERSION:
        wanted = f"wanted {SCHEMA_VERSION}; write it anew with foveate rollout"
        raise InputError(f"{path}:{idx + 1} has schema_version {version!r}, {wanted}")
    return record


def _no_trajectory(path: Path, idx: int, error: Exception) -> InputError:
    return InputError(f"{path}:{idx + 1} is no trajectory ({error!r}); write it with foveate rollout")


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "accept": tuple(record["accept"]),
        "evidence": tuple(map(tuple, record["evidence"])),
        "messages": tuple(record["messages"]),
    }


@contextmanager
def _appending(path: Path) -> Iterator[BinaryIO]:
    """A file for this process alone; what is written goes to its end."""
    try:
        file = path.open("ab")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); name another file") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{path} is being written by another process; name another file") from error
        yield file


def _line(trajectory: Trajectory, source: str, pictures: ImageStore) -> dict[str, Any]:
    item, record = trajectory.job.item, trajectory.record
    assert record is not None, "rollouts keep what a file takes when asked to (keeps_messages)"
    for image in record.run.images:
        if image.sha256 not in pictures:
            pictures.put(record.pictures.get(image.sha256))
    return {
        "schema_version": SCHEMA_VERSION,
        "source": source,
        "id": item.id,
        "group": trajectory.job.group,
        "seed": trajectory.job.seed,
        "family": item.family,
        "question": item.question,
        "expected": item.answer,
        "accept": item.accept,
        "kind": item.kind,
        "evidence": item.evidence,
        "answer": trajectory.answer,
        "right": trajectory.right,
        "reward": float(trajectory.right),
        "status": trajectory.status,
        "tool_calls": trajectory.tool_calls,
        "saw_evidence": trajectory.saw_evidence,
        "errors": trajectory.errors,
        "messages": [_by_reference(message) for message in record.messages],
        "run": record.run.to_json(),
    }


def _by_reference(message: Message) -> Message:
    if isinstance(message["content"], str):
        return message
    parts = [image_part(part["sha256"]) if "sha256" in part else part for part in message["content"]]
    return {**message, "content": parts}
