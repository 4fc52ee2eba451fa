"""DPO on pairs of conversations: what the policy wrote in the chosen one becomes likelier than in the rejected one.

Each side has crops and tool outputs of its own, and none of them counts: only tokens that the policy wrote do. The
reference is the policy that the run starts from; what it says of a conversation is computed once, pictures included.
The tower stays as it is unless it is told to learn: then what it made of each picture is computed once, too. The sides
of a pair lie next to each other, and what both begin with is computed once (foveate.models.branches).

Shape letters: S tokens that the policy wrote, B conversations: of each pair the chosen one, then the rejected one.
"""

import math
import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.models.seen import SeenImages
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript, pack, without_patches
from foveate.ops import compute_dtype
from foveate.rl.dpo import DpoConfig, Side, dpo_loss
from foveate.rl.logprobs import conversation_of, summed, written_logprobs
from foveate.rl.preferences import laid_out, open_preferences
from foveate.rl.trainable import LoraConfig, make_trainable, whole_weights


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


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatch:
    """Pairs laid out for the network."""

    transcript: Transcript
    reference_B: Tensor


class PreferenceStage:
    """Pairs drawn anew for each step; see foveate.rl.train.Stage."""

    def __init__(self, config: PreferenceConfig, seed: int, device: str) -> None:
        """Raises InputError when the file makes no pair."""
        self.config, self.seed = config, seed
        self.pairs = open_preferences(Path(config.data))
        if not len(self.pairs):
            raise InputError(f"{config.data} makes no pair; wanted right and wrong answers to the same question")
        dtype = compute_dtype(torch.device(device))
        self.thinker = Thinker.from_pretrained(config.start, dtype=dtype).to(device)
        self.module = self.thinker
        self.see = None if config.train_tower else SeenImages(self.thinker, room_bytes=math.inf)
        self.references: list[Tensor] = []
        self.seen_pairs: list[Transcript] = []
        with torch.no_grad():
            for idx in range(len(self.pairs)):
                self._meet(idx)
        make_trainable(self.thinker, config.lora, tower=config.train_tower)

    def batch(self, index: int) -> PairBatch:
        """Pairs of step `index`."""
        rng = random.Random(f"{self.seed}/{index}")
        idxs = rng.sample(range(len(self.pairs)), min(self.config.pairs_per_batch, len(self.pairs)))
        pairs = [self.seen_pairs[idx] if self.seen_pairs else self._laid_out(idx) for idx in idxs]
        return PairBatch(transcript=pack(pairs), reference_B=torch.cat([self.references[idx] for idx in idxs]))

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

    def export(self, folder: Path) -> None:
        """Write a checkpoint folder, in bf16, that `foveate ask --model` takes."""
        self.thinker.save_pretrained(folder, dtype=torch.bfloat16, weights=whole_weights(self.thinker))

    def _meet(self, idx: int) -> None:
        """Keep what the policy as it is now says of a pair, and its layout if pictures need not come again."""
        transcript = self._laid_out(idx)
        logprobs_S = written_logprobs(self.thinker, transcript, self.see)
        self.references.append(summed(logprobs_S, conversation_of(transcript), 2).cpu())
        if self.see is not None:
            self.seen_pairs.append(without_patches(transcript))

    def _laid_out(self, idx: int) -> Transcript:
        return laid_out(self.pairs[idx], self.thinker.processor)
