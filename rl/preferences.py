"""Preferences from a file, of rollouts or of TRL, and how a network takes them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from foveate.errors import InputError, shown
from foveate.models.chat import says
from foveate.models.processor import Processor
from foveate.models.reasoner import Message
from foveate.models.transcript import Transcript, pack
from foveate.rl.pairs import Pair, Preference, pairs_of
from foveate.rl.trajectory import read_trajectories
from foveate.rl.trl_rows import TrlRows


class Preferences(Protocol):
    """Some preferences, whose pictures are read when one is asked for."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, idx: int) -> Preference:
        """Number `idx`."""
        ...


class RolloutPreferences:
    """Pairs of samples of one question; all that the policy wrote counts."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, idx: int) -> Preference:
        """See Preferences."""
        pair = self.pairs[idx]
        return Preference(prompt=[], chosen=pair.chosen.resolved(), rejected=pair.rejected.resolved())


def open_preferences(path: Path) -> Preferences:
    """The pairs of a file of `foveate rollout`, or the rows of a dataset of TRL.

    Raises InputError for a file that is neither, ConfigError without a package that it needs.
    """
    if path.suffix == ".jsonl" and not is_of_trl(path):
        return RolloutPreferences(list(pairs_of(read_trajectories(path))))
    return TrlRows(path)


def is_of_trl(path: Path) -> bool:
    """Whether the first line is none of a rollout's; what cannot be read is left to whoever reads it all."""
    try:
        with path.open(encoding="utf-8") as file:
            return "schema_version" not in json.loads(file.readline())
    except (OSError, ValueError, TypeError):
        return False


def lacks(preference: Preference) -> str:
    """Why there is nothing to learn from a preference; empty when there is something.

    A side without a word of an assistant would move the other one alone.
    """
    for name, side in (("chosen", preference.chosen), ("rejected", preference.rejected)):
        if not any(message["role"] == "assistant" and message["content"].strip() for message in side):
            return f"the {name} side says nothing"
    return "both sides are the same" if preference.chosen == preference.rejected else ""


def laid_out(preference: Preference, processor: Processor) -> Transcript:
    """The chosen conversation and the rejected one, packed."""
    sides = (preference.chosen, preference.rejected)
    return pack([conversation(preference.prompt, side, processor) for side in sides])


def conversation(prompt: Sequence[Message], said: Sequence[Message], processor: Processor) -> Transcript:
    """A conversation in which what the prompt says is given. Raises InputError for one of another model's tokens."""
    for message in said:
        _check_tokens(message, processor)
    transcript = processor([*prompt, *said])
    by_policy_T = transcript.by_policy_T.clone()
    by_policy_T[: len(processor(prompt)) if prompt else 0] = False
    return replace(transcript, by_policy_T=by_policy_T)


def idle(processor: Processor, *, shown: bool = True) -> Transcript:
    """A conversation without meaning, with a picture or without, for whom in a team has none to compute with."""
    parts: list[dict[str, Any]] = [{"type": "image", "image": Image.new("RGB", (32, 32))}] if shown else []
    said: list[Message] = [
        {"role": "user", "content": [*parts, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "."},
    ]
    return processor(said)


def with_picture(transcripts: Sequence[Transcript], processor: Processor) -> list[Transcript]:
    """The same, and a picture of nothing where they have none: in a team the towers of all learn in step."""
    if any(transcript.images for transcript in transcripts):
        return list(transcripts)
    nothing = idle(processor)
    return [*transcripts, replace(nothing, by_policy_T=torch.zeros_like(nothing.by_policy_T))]


def _check_tokens(message: Message, processor: Processor) -> None:
    """Ids as sampled are taken as they are; those of another tokenizer would be some other text."""
    ids, text = message.get("token_ids"), message["content"]
    if ids and not says(ids, text, processor.codec):
        said = processor.codec.decode(ids)
        raise InputError(
            f"a turn says {shown(text)}, and its token_ids say {shown(said)} to the model that shall learn; wanted "
            "conversations of that model"
        )


@contextmanager
def naming(place: str) -> Iterator[None]:
    """An InputError of the block says where it comes from."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{place}: {error}") from error
