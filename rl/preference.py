"""DPO on pairs of conversations: what the policy wrote in the chosen one becomes likelier than in the rejected one.

Each side has crops and tool outputs of its own, and none of them counts: only tokens that the policy wrote do. The
reference is the policy that the run starts from; what it says of a conversation is computed once, pictures included.
The tower stays as it is unless it is told to learn: then what it made of each picture is computed once, too. The sides
of a pair lie next to each other, and what both begin with is computed once (foveate.models.branches).

Shape letters: S tokens that the policy wrote, B conversations: of each pair the chosen one, then the rejected one.
"""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from foveate.errors import InputError, ModelError
from foveate.models.seen import SeenImages
from foveate.models.transcript import Transcript, pack, without_patches
from foveate.paths import expanded
from foveate.rl.dpo import DpoConfig, Side, dpo_loss
from foveate.rl.limits import at_least, check
from foveate.rl.logprobs import conversation_of, summed, written_logprobs
from foveate.rl.pairs import Preference
from foveate.rl.preferences import lacks, laid_out, naming, open_preferences, with_picture
from foveate.rl.rounds import batch_at
from foveate.rl.trainable import LoraConfig, export, make_trainable, open_policy

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Settings of the stage."""

    start: str
    """Checkpoint folder of the policy, which is also the reference."""
    data: str
    """A file of `foveate rollout`, or a dataset in TRL's form: .jsonl, .parquet or a folder."""
    pairs_per_batch: int = 8
    train_tower: bool = False
    """Whether the tower learns too; pictures are then read and looked at again in every step."""
    dpo: DpoConfig = field(default_factory=DpoConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    recompute: bool = False
    """Whether the decoder computes its blocks again for the gradient, in a third more time and far less memory."""

    def __post_init__(self) -> None:
        check(self, "stage.", pairs_per_batch=at_least(1))


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatch:
    """Pairs laid out for the network."""

    transcript: Transcript
    reference_B: Tensor


class PreferenceStage:
    """Pairs in an order drawn anew for each time round; see foveate.rl.train.Stage."""

    reads_blocks = False

    def __init__(self, config: PreferenceConfig, seed: int, device: str) -> None:
        """Raises InputError when the file makes no pair that something can be learned from, or one cannot be read."""
        self.config, self.seed = config, seed
        self.pairs = open_preferences(expanded(config.data))
        self.usable: list[int] = []
        """Numbers of the pairs that something can be learned from; the lists below have one for each."""
        self.thinker = open_policy(config.start, device)
        self.module = self.thinker
        self.see = None if config.train_tower else SeenImages(self.thinker, room_bytes=math.inf)
        self.references: list[Tensor] = []
        self.seen_pairs: list[Transcript] = []
        with torch.no_grad():
            self._meet_all()
        if not self.usable:
            wanted = "a row whose sides differ" if len(self.pairs) else "right and wrong answers to the same question"
            raise InputError(f"{config.data} makes no pair; wanted {wanted}")
        make_trainable(self.thinker, config.lora, tower=config.train_tower, recompute=config.recompute)

    def batch(self, index: int) -> PairBatch:
        """Pairs of step `index`."""
        places = batch_at(index, self.config.pairs_per_batch, len(self.usable), self.seed)
        if self.seen_pairs:
            pairs = [self.seen_pairs[place] for place in places]
        else:
            pairs = with_picture([self._again(self.usable[place]) for place in places], self.thinker.processor)
        return PairBatch(transcript=pack(pairs), reference_B=torch.cat([self.references[place] for place in places]))

    def loss(self, batch: PairBatch) -> tuple[Tensor, dict[str, float]]:
        """The loss of the pairs; how often, and by how much, the chosen one gained more."""
        count = len(batch.reference_B)
        logprobs_S = written_logprobs(self.thinker, batch.transcript, self.see)
        conversation_S = conversation_of(batch.transcript)
        policy_B = summed(logprobs_S, conversation_S, count)
        tokens_B = torch.bincount(conversation_S, minlength=count).to(policy_B)
        sides_2B = (x.view(-1, 2).unbind(1) for x in (policy_B, batch.reference_B.to(policy_B), tokens_B))
        parts = zip(*sides_2B, strict=True)
        chosen, rejected = (Side(policy_B=p, reference_B=r, tokens_B=t) for p, r, t in parts)
        margin_B = (chosen.gain() - rejected.gain()).detach()
        metrics = {"margin": float(margin_B.mean()), "preferred": float((margin_B > 0).float().mean())}
        return dpo_loss(chosen, rejected, self.config.dpo), metrics

    def weight(self, batch: PairBatch) -> float:
        """Pairs: the loss is a mean over them."""
        return len(batch.reference_B) / 2

    def export(self, folder: Path) -> None:
        """See foveate.rl.trainable.export."""
        export(self.thinker, folder)

    def _meet_all(self) -> None:
        """Meet every pair; those that nothing can be learned from are left out, which is said once."""
        left_out: dict[str, list[int]] = {}
        for idx in tqdm(range(len(self.pairs)), desc="reference", unit="pair", disable=None):
            preference = self._read(idx)
            if reason := lacks(preference):
                left_out.setdefault(reason, []).append(idx)
            else:
                self.usable.append(idx)
                self._meet(self._laid_out(idx, preference))
                if not self.references[-1].isfinite().all():
                    raise ModelError(
                        f"{self.config.start} says no number of row {idx} of {self.config.data}; look at its weights"
                    )
        for reason, idxs in left_out.items():
            _LOGGER.warning(
                "%s: %d of %d pairs left out, the first is row %d: %s",
                self.config.data, len(idxs), len(self.pairs), idxs[0], reason,
            )  # fmt: skip

    def _meet(self, transcript: Transcript) -> None:
        """Keep what the policy as it is now says of a pair, and its layout if pictures need not come again."""
        logprobs_S = written_logprobs(self.thinker, transcript, self.see)
        self.references.append(summed(logprobs_S, conversation_of(transcript), 2).cpu())
        if self.see is not None:
            self.seen_pairs.append(without_patches(transcript))

    def _again(self, idx: int) -> Transcript:
        return self._laid_out(idx, self._read(idx))

    def _read(self, idx: int) -> Preference:
        with naming(f"{self.config.data}, row {idx}"):
            return self.pairs[idx]

    def _laid_out(self, idx: int, preference: Preference) -> Transcript:
        with naming(f"{self.config.data}, row {idx}"):
            return laid_out(preference, self.thinker.processor)
