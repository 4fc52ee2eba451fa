"""DPO on pairs of conversations: what the policy wrote in the chosen one becomes likelier than in the rejected one.

Each side has crops and tool outputs of its own, and none of them counts: only tokens that the policy wrote do. The
reference is the policy that the run starts from; what it says of a conversation is computed once, pictures included.

Shape letters: S tokens that the policy wrote, B conversations: the chosen ones, then the rejected ones.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.models.thinker import Thinker
from foveate.models.transcript import Transcript, pack
from foveate.ops import compute_dtype
from foveate.rl.dpo import DpoConfig, Side, dpo_loss
from foveate.rl.logprobs import conversation_of, summed, written_logprobs
from foveate.rl.pairs import Pair, pairs_of
from foveate.rl.trajectory import Saved, read_trajectories


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """Settings of the stage."""

    start: str
    """Checkpoint folder of the policy, which is also the reference."""
    data: str
    """A file of `foveate rollout`."""
    pairs_per_batch: int = 8
    dpo: DpoConfig = field(default_factory=DpoConfig)


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
        self.pairs = list(pairs_of(read_trajectories(Path(config.data))))
        if not self.pairs:
            raise InputError(f"{config.data} makes no pair; wanted right and wrong answers to the same question")
        dtype = compute_dtype(torch.device(device))
        self.thinker = Thinker.from_pretrained(config.start, dtype=dtype).to(device)
        self.module = self.thinker
        with torch.inference_mode():
            self.reference = [self._said(pair) for pair in self.pairs]
        self.thinker.requires_grad_(True)

    def batch(self, index: int) -> PairBatch:
        """Pairs of step `index`, each with its pictures."""
        rng = random.Random(f"{self.seed}/{index}")
        chosen = rng.sample(range(len(self.pairs)), min(self.config.pairs_per_batch, len(self.pairs)))
        pairs = [self.pairs[idx] for idx in chosen]
        sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        reference_2B = torch.stack([self.reference[idx] for idx in chosen], dim=1)
        return PairBatch(transcript=self._laid_out(sides), reference_B=reference_2B.flatten())

    def loss(self, batch: PairBatch) -> tuple[Tensor, dict[str, float]]:
        """The loss of the pairs; how often, and by how much, the chosen one gained more."""
        count = len(batch.reference_B)
        logprobs_S = written_logprobs(self.thinker, batch.transcript)
        conversation_S = conversation_of(batch.transcript)
        policy_B = summed(logprobs_S, conversation_S, count)
        tokens_B = torch.bincount(conversation_S, minlength=count).to(policy_B)
        parts = zip(*(x.chunk(2) for x in (policy_B, batch.reference_B.to(policy_B), tokens_B)), strict=True)
        chosen, rejected = (Side(policy_B=p, reference_B=r, tokens_B=t) for p, r, t in parts)
        margin_B = (chosen.gain() - rejected.gain()).detach()
        metrics = {"margin": float(margin_B.mean()), "preferred": float((margin_B > 0).float().mean())}
        return dpo_loss(chosen, rejected, self.config.dpo), metrics

    def export(self, folder: Path) -> None:
        """Write a checkpoint folder, in bf16, that `foveate ask --model` takes."""
        self.thinker.save_pretrained(folder, dtype=torch.bfloat16)

    def _said(self, pair: Pair) -> Tensor:
        """Log-probabilities [2] of a pair's sides under the policy as it is now."""
        transcript = self._laid_out([pair.chosen, pair.rejected])
        logprobs_S = written_logprobs(self.thinker, transcript)
        return summed(logprobs_S, conversation_of(transcript), 2).cpu()

    def _laid_out(self, sides: list[Saved]) -> Transcript:
        return pack([self.thinker.processor(side.resolved()) for side in sides])
