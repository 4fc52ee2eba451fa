"""Stage 1: the tower learns to read. Every visual token says which characters lie under it.

One short string per picture teaches a tower nothing in 50,000 pictures; a label for every 7 px of a page full of text
teaches it in minutes. Two linear heads are supervised: one on the features of each patch, one on each merged token
(what the decoder will see). The heads are thrown away afterwards.

Shape letters: N patches, M merged tokens, P values of a patch, D tower width, E decoder width, C classes, G points.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.models.config import PRESETS, ThinkerConfig
from foveate.models.image import Grid, patchify
from foveate.models.norm import RMSNorm
from foveate.models.vision import VisionTower
from foveate.rl.pages import NUM_CLASSES, POINT_PX, PageWriter, corpus_words


@dataclass(frozen=True, kw_only=True)
class GlyphBatch:
    """Pages as the tower takes them."""

    patches_NP: Tensor
    grids: list[Grid]
    labels_NG: Tensor
    """Class of each 7 px point of each patch, row by row, uint8."""


def glyph_batch(writer: PageWriter, config: ThinkerConfig, seed: int, num_blocks: int, difficulty: float) -> GlyphBatch:
    """Draw pages from `seed` until they hold `num_blocks` merged tokens."""
    rng = random.Random(seed)
    vision = config.vision
    patches, grids, labels, used = [], [], [], 0
    while used < num_blocks:
        page = writer.page(rng, difficulty=difficulty)
        side = vision.patch_size
        grid = Grid(t=1, h=page.image.height // side, w=page.image.width // side)
        patches.append(patchify(np.asarray(page.image), vision, config.image))
        labels.append(_block_order(torch.from_numpy(page.glyphs_YX), grid, vision.merge_size, side // POINT_PX))
        grids.append(grid)
        used += grid.num_tokens(vision.merge_size)
    return GlyphBatch(patches_NP=torch.cat(patches), grids=grids, labels_NG=torch.cat(labels))


def _block_order(points_YX: Tensor, grid: Grid, merge_size: int, side: int) -> Tensor:
    """Points [N, G] of each patch, patches in block order."""
    m = merge_size
    blocks = points_YX.reshape(grid.h // m, m, side, grid.w // m, m, side)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(grid.num_patches, side * side)


class GlyphReader(nn.Module):
    """A tower with its two reading heads."""

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        vision = config.vision
        self.points = (vision.patch_size // POINT_PX) ** 2
        self.tower = VisionTower(vision, config.decoder.hidden_size)
        self.patch_head = nn.Linear(vision.hidden_size, self.points * NUM_CLASSES)
        self.token_norm = RMSNorm(config.decoder.hidden_size)
        self.token_head = nn.Linear(config.decoder.hidden_size, self.points * NUM_CLASSES * vision.merge_size**2)

    def loss(self, batch: GlyphBatch) -> tuple[Tensor, dict[str, float]]:
        """Mean cross-entropy of both heads, and the accuracy of each on points that carry a character."""
        features_ND = self.tower.encode(batch.patches_NP.to(self.patch_head.weight.dtype), batch.grids)
        tokens_ME = self.token_norm(self.tower.merger(features_ND))
        labels = batch.labels_NG.reshape(-1).long()
        inked = labels > 0
        weight = torch.ones(NUM_CLASSES)
        weight[0] = 0.3
        total, metrics = torch.zeros(()), {}
        for name, logits in (("patch", self.patch_head(features_ND)), ("token", self.token_head(tokens_ME))):
            logits_GC = logits.reshape(-1, NUM_CLASSES).float()
            total = total + F.cross_entropy(logits_GC, labels, weight=weight)
            metrics[f"{name}_accuracy"] = float((logits_GC[inked].argmax(-1) == labels[inked]).float().mean())
        return total, metrics


@dataclass(frozen=True, kw_only=True)
class GlyphConfig:
    """Settings of the stage."""

    preset: str = "nano"
    blocks_per_batch: int = 300
    ramp_steps: int = 3000
    """Pages grow from easy to hard over this many steps."""


class GlyphStage:
    """The stage as the training loop takes it."""

    def __init__(self, config: GlyphConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.thinker = PRESETS[config.preset]
        torch.manual_seed(seed)
        self.module = GlyphReader(self.thinker).bfloat16()
        self.writer = PageWriter("train", corpus_words())

    def batch(self, index: int) -> GlyphBatch:
        """Fresh pages."""
        seed = self.seed * 10_000_019 + index
        difficulty = min(1.0, index / max(1, self.config.ramp_steps))
        return glyph_batch(self.writer, self.thinker, seed, self.config.blocks_per_batch, difficulty)

    def loss(self, batch: GlyphBatch) -> tuple[Tensor, dict[str, float]]:
        """See GlyphReader.loss."""
        return self.module.loss(batch)

    def export(self, folder: Path) -> None:
        """Write the tower alone, named as inside a thinker."""
        tensors = {f"vision.{name}": p.detach().contiguous() for name, p in self.module.tower.named_parameters()}
        save_file(tensors, folder / "tower.safetensors")
