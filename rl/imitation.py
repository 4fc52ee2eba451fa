"""SFT on conversations of a file: what a policy, or somebody else, wrote there becomes likelier.

    L = - mean over the tokens written in a batch of log pi(token | everything before it)

Questions, tool outputs, images and templates are context and carry no loss. A batch counts by its tokens where several
make a step, so 8 conversations are 1 accumulated 8 times.

A file of `foveate rollout` gives the ids as they were sampled, with the pictures and crops that were seen (rejection
sampling, as the cold starts of Kimi k1.5, arXiv 2501.12599, are made). A dataset in TRL's form has `messages`, or
`prompt` and `completion`, and perhaps `images` or `image` (foveate.rl.trl_rows); all turns of an assistant count but
the prompt's.

Deviation: the experts' balance loss is not added; the policy that wrote the file is balanced already.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from foveate.errors import InputError
from foveate.models.reasoner import Message
from foveate.models.seen import SeenImages
from foveate.models.transcript import Transcript, pack, without_patches
from foveate.paths import expanded
from foveate.rl.limits import at_least, check
from foveate.rl.logprobs import written_logprobs
from foveate.rl.preferences import conversation, is_of_trl, naming, with_picture
from foveate.rl.rounds import batch_at
from foveate.rl.trainable import LoraConfig, export, make_trainable, open_policy
from foveate.rl.trajectory import Saved, read_trajectories
from foveate.rl.trl_rows import NO_ROW, offering, open_rows, pictures_of, preference_of, tools_of


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """Settings of the stage; `data` is what tells it from the other supervised one."""

    start: str
    """Checkpoint folder of any thinker."""
    data: str
    """A file of `foveate rollout`, or a dataset in TRL's form: .jsonl, .parquet or a folder."""
    only_right: bool = True
    """Whether only conversations with a right answer are imitated; those that a budget cut never are."""
    conversations_per_batch: int = 8
    train_tower: bool = False
    """Whether the tower learns too; pictures are then read and looked at again in every step."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    recompute: bool = False
    """Whether the decoder computes its blocks again for the gradient, in a third more time and far less memory."""

    def __post_init__(self) -> None:
        check(self, "stage.", conversations_per_batch=at_least(1))


class Example(NamedTuple):
    """A conversation with its pictures, as a processor takes them."""

    prompt: list[Message]
    """What is given: no turn of it is imitated."""
    said: list[Message]


class Examples(Protocol):
    """Some examples, whose pictures are read when one is asked for."""

    def __len__(self) -> int:
        """How many."""
        ...

    def __getitem__(self, idx: int) -> Example:
        """Number `idx`."""
        ...


class RolloutExamples:
    """Conversations of `foveate rollout`."""

    def __init__(self, saved: Sequence[Saved]) -> None:
        self.saved = saved

    def __len__(self) -> int:
        return len(self.saved)

    def __getitem__(self, idx: int) -> Example:
        """See Examples."""
        return Example(prompt=[], said=self.saved[idx].resolved())


class TrlExamples:
    """Rows of TRL's conversational form."""

    def __init__(self, path: Path) -> None:
        """Raises InputError for what is no dataset, ConfigError without `datasets` where it is needed."""
        self.path, self.rows = path, open_rows(path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, idx: int) -> Example:
        """See Examples. Raises InputError for a row that has no conversation."""
        try:
            return example_of(self.rows[idx], self.path.parent)
        except NO_ROW as error:
            raise InputError(f"{error}; wanted TRL's messages, or prompt and completion, and perhaps images") from error


def example_of(row: Mapping[str, Any], folder: Path) -> Example:
    """A row with its pictures in their places. Raises KeyError, TypeError or ValueError for one that does not fit."""
    images = pictures_of(row)
    if row.get("messages") is not None:
        sides = {"prompt": [], "chosen": row["messages"], "chosen_images": images}
    else:
        sides = {"prompt": row["prompt"], "images": images, "chosen": row["completion"]}
    prompt, said, _ = preference_of({**sides, "rejected": []}, folder)
    tools = tools_of(row)
    prompt, said = (offering(tools, prompt), said) if prompt else (prompt, offering(tools, said))
    if not any(message["role"] == "assistant" for message in said):
        raise ValueError("no turn of an assistant")
    return Example(prompt, said)


def open_examples(path: Path, *, only_right: bool = True) -> Examples:
    """The conversations of a file that are worth imitating.

    Raises InputError for a file that is none, or that has none of them.
    """
    examples: Examples
    if path.suffix == ".jsonl" and not is_of_trl(path):
        whole = (one for one in read_trajectories(path) if one.is_whole)
        examples = RolloutExamples([one for one in whole if one.right or not only_right])
    else:
        examples = TrlExamples(path)
    if not len(examples):
        wanted = "ended with a right answer" if only_right else "no budget cut"
        wanted = "is a row of TRL's form" if isinstance(examples, TrlExamples) else wanted
        raise InputError(f"{path} has no conversation to imitate; wanted one that {wanted}")
    return examples


class ImitationStage:
    """Conversations in an order drawn anew for each time round; see foveate.rl.train.Stage."""

    reads_blocks = False

    def __init__(self, config: ImitationConfig, seed: int, device: str) -> None:
        """Raises InputError when the file has nothing to imitate."""
        self.config, self.seed = config, seed
        self.examples = open_examples(expanded(config.data), only_right=config.only_right)
        self.thinker = open_policy(config.start, device)
        self.module = self.thinker
        self.see = None if config.train_tower else SeenImages(self.thinker, room_bytes=math.inf)
        self.kept: list[Transcript] = []
        """Those of all examples, without patches, unless the tower learns."""
        for idx in tqdm(range(len(self.examples)), desc="first look", unit="conversation", disable=None):
            self._meet(idx)
        make_trainable(self.thinker, config.lora, tower=config.train_tower, recompute=config.recompute)

    def batch(self, index: int) -> Transcript:
        """Conversations of step `index`, packed."""
        idxs = batch_at(index, self.config.conversations_per_batch, len(self.examples), self.seed)
        if self.kept:
            return pack([self.kept[idx] for idx in idxs])
        return pack(with_picture([self._laid_out(idx) for idx in idxs], self.thinker.processor))

    def loss(self, batch: Transcript) -> tuple[Tensor, dict[str, Tensor]]:
        """See the module's docstring."""
        return -written_logprobs(self.thinker, batch, self.see).mean(), {}

    def weight(self, batch: Transcript) -> float:
        """Tokens: the loss is a mean over them."""
        return float(batch.by_policy_T.sum())

    def export(self, folder: Path) -> None:
        """See foveate.rl.trainable.export."""
        export(self.thinker, folder)

    @torch.no_grad()
    def _meet(self, idx: int) -> None:
        """Find out whether an example can be laid out; look at its pictures, if they need not come again then."""
        transcript = self._laid_out(idx)
        if self.see is None:
            return
        if transcript.images:
            self.see(transcript.images)
        self.kept.append(without_patches(transcript))

    def _laid_out(self, idx: int) -> Transcript:
        """Raises InputError with the file and the row."""
        with naming(f"{self.config.data}, row {idx}"):
            example = self.examples[idx]
            return conversation(example.prompt, example.said, self.thinker.processor)
