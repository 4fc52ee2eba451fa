"""Stages 2 and 3: supervised conversations, pages to read and the oracle's trajectories on drawn scenes.

L = - sum over tokens that the policy wrote of log pi(token | everything before it) / their number, plus the experts'
load-balancing loss. Questions, observations, images and templates are context and carry no loss.

Shape letters: T tokens, D decoder width, V vocabulary, S supervised tokens.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import ConfigError
from foveate.models.config import PRESETS, ThinkerConfig
from foveate.models.image import Grid
from foveate.models.sampling import allowed_logprobs
from foveate.models.thinker import Thinker
from foveate.models.tokenizer import TextCodec
from foveate.models.transcript import ImageInput, Transcript, build_transcript, pack
from foveate.models.vision import VisionTower
from foveate.ops import compute_dtype
from foveate.rl.oracle_messages import mark_exercises, page_messages, scene_messages
from foveate.rl.pages import PageWriter, corpus_words
from foveate.rl.tasks.scene import FAMILIES, draw_scene
from foveate.rl.views import draw_sheet

ROUND_TOKENS = 128
ROUND_PATCHES = 256
MOST_EXERCISES = 11
SMALLEST_PAGE = 12
"""Blocks of the first pages of a run that starts easy."""


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Settings of a supervised stage."""

    tokenizer: str = "models/nano/weights/tokenizer.json"
    preset: str = "nano"
    start: str = ""
    """A checkpoint folder, or a tower.safetensors of stage 1; empty for random weights."""
    freeze_tower: bool = False
    """Whether the tower stays as it is up to its projector: a third less work while the decoder learns to look."""
    tokens_per_batch: int = 4096
    page_share: float = 0.15
    """Share of the conversations that are reading exercises."""
    sheet_share: float = 0.0
    """Share of the conversations that are about a sheet of named things: where is this, what is at that place."""
    page_blocks: int = 150
    ramp_steps: int = 0
    """Over this many steps pages grow from a line to page_blocks, and exercises from reading all to finding one."""
    families: tuple[str, ...] = field(default=FAMILIES)
    max_questions: int = 4
    max_exercises: int = 0
    """Most questions where a named thing of a scene is, or what is at a place, before the scene's own questions."""


class SftStage:
    """The stage as the training loop takes it."""

    def __init__(self, config: SftConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        torch.manual_seed(seed)
        self.module = starting_point(config).to(compute_dtype()).train()
        if config.freeze_tower:
            freeze_tower(self.module.vision)
        self.processor = self.module.processor
        self.writer = PageWriter("train", corpus_words())
        self.balance_coef = self.module.config.decoder.moe.balance_coef if self.module.config.decoder.moe else 0.0

    def batch(self, index: int) -> Transcript:
        """Conversations about freshly drawn pages and pictures, packed up to the token budget."""
        rng = random.Random(self.seed * 10_000_019 + index)
        transcripts: list[Transcript] = []
        while sum(map(len, transcripts)) < self.config.tokens_per_batch:
            kind = rng.random()
            if kind < self.config.page_share:
                transcripts.append(self._page(rng, self._difficulty(index)))
            elif kind < self.config.page_share + self.config.sheet_share:
                transcripts.append(self._sheet(rng))
            else:
                transcripts.append(self._scene(rng))
        return pack([*transcripts, filler(transcripts, self.module.config, self.processor.codec.image_pad)])

    def _difficulty(self, index: int) -> float:
        return min(1.0, index / self.config.ramp_steps) if self.config.ramp_steps else 1.0

    def _page(self, rng: random.Random, difficulty: float) -> Transcript:
        max_blocks = round(SMALLEST_PAGE + difficulty * (self.config.page_blocks - SMALLEST_PAGE))
        page = self.writer.page(rng, max_blocks=max_blocks, difficulty=difficulty)
        while not page.lines:
            page = self.writer.page(rng, max_blocks=max_blocks, difficulty=difficulty)
        most = 1 + round(difficulty * MOST_EXERCISES)
        return self.processor(page_messages(page, rng, rng.randint(-(-most // 2), most)))

    def _sheet(self, rng: random.Random) -> Transcript:
        sheet = draw_sheet(rng)
        exercises = mark_exercises(sheet.marks, sheet.image.size, rng, rng.randint(6, MOST_EXERCISES))
        return self.processor(scene_messages(sheet.image, (), exercises))

    def _scene(self, rng: random.Random) -> Transcript:
        scene = draw_scene(rng.choice(self.config.families), rng.getrandbits(40), "train")
        count = min(len(scene.questions), rng.randint(1, self.config.max_questions))
        exercises = mark_exercises(scene.marks, scene.image.size, rng, rng.randint(0, self.config.max_exercises))
        return self.processor(scene_messages(scene.image, rng.sample(scene.questions, count), exercises))

    def loss(self, batch: Transcript) -> tuple[Tensor, dict[str, float]]:
        """See the module's docstring."""
        hidden_TD, balance = self.module.hidden(batch)
        targets_S = torch.nonzero(batch.by_policy_T)[:, 0]
        logits_SV = self.module.decoder.head(hidden_TD[targets_S - 1])
        logprobs_SV = allowed_logprobs(logits_SV, self.processor.codec.never_sampled)
        wanted_S = batch.token_ids[targets_S]
        loss = F.nll_loss(logprobs_SV, wanted_S)
        right = float((logprobs_SV.argmax(-1) == wanted_S).float().mean())
        metrics = {"nll": float(loss.detach()), "token_accuracy": right, "balance": float(balance.detach())}
        return loss + self.balance_coef * balance, metrics

    def export(self, folder: Path) -> None:
        """Write a checkpoint folder, in bf16, that `foveate ask --model` takes."""
        self.module.save_pretrained(folder, dtype=torch.bfloat16)


def filler(transcripts: Sequence[Transcript], config: ThinkerConfig, pad_id: int) -> Transcript:
    """A conversation without meaning that brings a batch to round numbers of tokens and patches.

    Matrix libraries compile a kernel for each new shape; round numbers recur. Nobody attends to it; it has no loss.
    """
    merge = config.vision.merge_size
    num_patches = sum(image.grid.num_patches for t in transcripts for image in t.images)
    columns = -(num_patches + merge**2) % ROUND_PATCHES // merge + merge
    grid = Grid(t=1, h=merge, w=columns)
    patches_NP = torch.zeros(grid.num_patches, config.vision.patch_dim)
    num_tokens = grid.num_tokens(merge)
    image = ImageInput(key="filler", grid=grid, num_tokens=num_tokens, patches_NP=patches_NP)
    text = [pad_id] * (-(sum(map(len, transcripts)) + num_tokens) % ROUND_TOKENS)
    return build_transcript([(image, False), (text, False)], image_pad_id=pad_id, merge_size=merge)


def freeze_tower(vision: VisionTower) -> None:
    """Only the projector and the positions at the output go on learning."""
    for name, parameter in vision.named_parameters():
        parameter.requires_grad_(name.startswith(("merger.", "output_positions")))


def starting_point(config: SftConfig) -> Thinker:
    """The thinker that training starts from. Raises ConfigError when `start` does not exist."""
    if config.start and not Path(config.start).exists():
        raise ConfigError(f"stage.start is {config.start}, which does not exist; train the stage before, or set it")
    if config.start and not config.start.endswith(".safetensors"):
        return Thinker.from_pretrained(config.start, dtype=torch.float32).requires_grad_(True)
    thinker = Thinker(PRESETS[config.preset], TextCodec.from_file(Path(config.tokenizer)))
    if config.start:
        missing = thinker.load_state_dict(load_file(config.start), strict=False).unexpected_keys
        assert not missing, f"{config.start} holds {missing[:3]} that the preset {config.preset} has not"
    return thinker
