"""Stage 1: the tower learns to see, from dense labels on pages, sheets and scenes (foveate.rl.lessons.dense).

One short string per picture teaches a tower nothing in 50,000 pictures; a label for every few pixels of a page full of
text teaches it in minutes. The labels are asked of the features of each patch and of each merged token.

Shape letters: N patches, P values of a patch, D tower width, M merged tokens, E decoder width.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from foveate.models.config import ThinkerConfig, preset
from foveate.models.image import Grid, patchify
from foveate.models.tokenizer import TextCodec
from foveate.models.vision import VisionTower
from foveate.ops import compute_dtype
from foveate.paths import expanded
from foveate.rl.journal import TOWER
from foveate.rl.lessons.dense import Chances, DenseHeads, DenseLabels, spoken_loss
from foveate.rl.lessons.pages import PageWriter, corpus_words
from foveate.rl.lessons.views import View, draw_sheet, draw_view, draw_views, nameless, page_drawing
from foveate.rl.limits import NOT_NEGATIVE, SHARE, at_least, check
from foveate.rl.rounds import difficulty_at, drawing_seed
from foveate.rl.start import TOKEN_HEADS, VISION, load_part, read_tensors
from foveate.rl.tasks.scene import FAMILIES, draw_scene
from foveate.rl.writing import replaced

MOST_BLOCKS = 72
"""Of a page: a batch holds many."""


@dataclass(frozen=True, kw_only=True)
class DenseBatch:
    """Pages, sheets and views of scenes as the tower takes them, with their labels."""

    patches_NP: Tensor
    grids: list[Grid]
    labels: DenseLabels


def dense_batch(
    writer: PageWriter,
    config: ThinkerConfig,
    codec: TextCodec,
    seed: int,
    num_blocks: int,
    *,
    difficulty: float,
    sheet_share: float,
    scene_share: float,
) -> DenseBatch:
    """Draw pages, sheets and scenes from `seed` until they hold `num_blocks` merged tokens."""
    rng = random.Random(seed)
    pictures: list[View] = []
    used, block_px = 0, config.vision.patch_size * config.vision.merge_size
    while used < num_blocks:
        count, kind = len(pictures), rng.random()
        if kind < sheet_share:
            sheet = draw_sheet(rng)
            pictures.append(draw_view(sheet, (0, 0, *sheet.image.size), config))
        elif kind < sheet_share + scene_share:
            pictures += draw_views(draw_scene(rng.choice(FAMILIES), rng.getrandbits(40), "train"), rng, config)
        else:
            page = page_drawing(writer.page(rng, max_blocks=MOST_BLOCKS, difficulty=difficulty))
            view = draw_view(page, (0, 0, *page.image.size), config)
            pictures.append(View(pixels_HW3=view.pixels_HW3, labels=nameless(view.labels)))
        used += sum(new.pixels_HW3.shape[0] * new.pixels_HW3.shape[1] // block_px**2 for new in pictures[count:])
    return DenseBatch(
        patches_NP=torch.cat([patchify(picture.pixels_HW3[None], config.vision, config.image) for picture in pictures]),
        grids=[picture.labels.grid for picture in pictures],
        labels=DenseLabels.of([picture.labels for picture in pictures], config.vision, codec),
    )


class DenseReader(nn.Module):
    """A tower with its heads."""

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        vision, width = config.vision, config.decoder.hidden_size
        self.tower = VisionTower(vision, width)
        self.patch_heads = DenseHeads(vision, vision.hidden_size, 1)
        self.token_heads = DenseHeads(vision, width, vision.merge_size**2)

    def loss(self, batch: DenseBatch, patch_coef: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the tokens' heads and patch_coef times that of the patches', and the accuracy of each readout."""
        features_ND = self.tower.encode(batch.patches_NP.to(self.tower.merger.up.weight), batch.grids)
        tokens_MD, labels = self.tower.merger(features_ND), batch.labels
        spelling = Chances(self.tower, tokens_MD).settled(labels.texts)
        said, said_metrics = spoken_loss(self.tower, tokens_MD, spelling, labels.named_MS)
        read, read_metrics = self.token_heads.loss(tokens_MD, labels)
        loss, metrics = said + read, {f"token_{kind}": value for kind, value in (said_metrics | read_metrics).items()}
        if patch_coef:
            patch_loss, patch_metrics = self.patch_heads.loss(features_ND, batch.labels)
            loss = loss + patch_coef * patch_loss
            metrics |= {f"patch_{kind}": value for kind, value in patch_metrics.items()}
        return loss, metrics


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """Settings of the stage."""

    tokenizer: str = "models/nano/weights/tokenizer.json"
    preset: str = "nano"
    start: str = ""
    """A tower.safetensors of an earlier run to go on from; empty for random weights."""
    blocks_per_batch: int = 300
    sheet_share: float = 0.25
    """Share of the draws that are a sheet of named things."""
    scene_share: float = 0.1
    """Share of the draws that are a scene (up to four views of it); the rest are pages."""
    patch_coef: float = 1.0
    """Weight of the readouts of the patches beside those of the merged tokens; 0 for none."""
    ramp_steps: int = 3000
    """Over this many batches pages grow from easy to hard and scenes come in."""

    def __post_init__(self) -> None:
        check(
            self, "stage.", blocks_per_batch=at_least(1), sheet_share=SHARE, scene_share=SHARE,
            patch_coef=NOT_NEGATIVE, ramp_steps=NOT_NEGATIVE,
        )  # fmt: skip


class TowerStage:
    """The stage as the training loop takes it."""

    reads_blocks = False

    def __init__(self, config: TowerConfig, seed: int, device: str) -> None:
        self.config, self.seed = config, seed
        self.thinker, self.codec = preset(config.preset), TextCodec.from_file(Path(config.tokenizer))
        torch.manual_seed(seed)
        self.module = DenseReader(self.thinker)
        if config.start:
            self._load(expanded(config.start))
        self.module = self.module.to(device, compute_dtype(device))
        self.writer = PageWriter("train", corpus_words())

    def _load(self, start: Path) -> None:
        """Take over a tower and the readouts of its tokens; those of its patches were not kept and begin at zero."""
        tensors = read_tensors(start)
        load_part(self.module.tower, tensors, VISION, start)
        if any(name.startswith(TOKEN_HEADS) for name in tensors):
            load_part(self.module.token_heads, tensors, TOKEN_HEADS, start)
        for parameter in self.module.patch_heads.parameters():
            nn.init.zeros_(parameter)

    def batch(self, index: int) -> DenseBatch:
        """Fresh pages and scenes."""
        config = self.config
        difficulty = difficulty_at(index, config.ramp_steps)
        seed = drawing_seed(self.seed, index)
        return dense_batch(
            self.writer,
            self.thinker,
            self.codec,
            seed,
            config.blocks_per_batch,
            difficulty=difficulty,
            sheet_share=config.sheet_share,
            scene_share=difficulty * config.scene_share,
        )

    def loss(self, batch: DenseBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """See DenseReader.loss."""
        return self.module.loss(batch, self.config.patch_coef)

    def weight(self, batch: DenseBatch) -> float:  # noqa: ARG002 - of Stage
        """All alike: each is of as many blocks."""
        return 1.0

    def export(self, folder: Path) -> None:
        """Write the tower, named as inside a thinker, and the readouts of its tokens for the next stage."""
        parts = {VISION: self.module.tower, TOKEN_HEADS: self.module.token_heads}
        tensors = {
            f"{prefix}{name}": parameter.detach().contiguous()
            for prefix, part in parts.items()
            for name, parameter in part.named_parameters()
        }
        with replaced(folder / TOWER) as fresh:
            save_file(tensors, fresh)
