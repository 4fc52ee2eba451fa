"""Stage 1: the tower learns to see. Every visual token says what lies under it.

One short string per picture teaches a tower nothing in 50,000 pictures; a label for every 7 px of a page full of text
teaches it in minutes. Two things are supervised densely: the character under each point of a page, and the thing (icon,
coloured shape, large letter or number, flag) under each patch of a sheet or a drawn scene. Both are asked of the
features of each patch and of each merged token (what the decoder will see). The heads are thrown away afterwards.

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
from foveate.models.vision import VisionTower
from foveate.rl.pages import NUM_CLASSES, POINT_PX, PageWriter, corpus_words
from foveate.rl.tasks.scene import FAMILIES, draw_scene
from foveate.rl.views import NUM_NAMES, draw_sheet, draw_view, draw_views

IGNORED = -100
BLANK_WEIGHT, NAMELESS_WEIGHT = 0.3, 0.1
"""Weights of a point that carries no character, and of a patch that carries nothing with a name: most do."""
NAMES_SHARE = 0.5
"""Weight of the loss on names: a batch has thousands of characters and a hundred named things, so it is noisier."""


@dataclass(frozen=True, kw_only=True)
class DenseBatch:
    """Pages, sheets and views of scenes as the tower takes them, with labels; IGNORED where a label is not known."""

    patches_NP: Tensor
    grids: list[Grid]
    glyphs_NG: Tensor
    """Class of each 7 px point of each patch, row by row, int64."""
    names_N: Tensor
    """Class of the thing under each patch, int64."""


def dense_batch(
    writer: PageWriter,
    config: ThinkerConfig,
    seed: int,
    num_blocks: int,
    *,
    difficulty: float,
    sheet_share: float,
    scene_share: float,
) -> DenseBatch:
    """Draw pages, sheets and scenes from `seed` until they hold `num_blocks` merged tokens."""
    rng = random.Random(seed)
    pictures: list[tuple[np.ndarray, Tensor | None, Tensor | None]] = []
    used, block_px = 0, config.vision.patch_size * config.vision.merge_size
    while used < num_blocks:
        count, kind = len(pictures), rng.random()
        if kind < sheet_share:
            sheet = draw_sheet(rng)
            view = draw_view(sheet.image, sheet.marks, (0, 0, *sheet.image.size), config)
            pictures.append((view.pixels_HW3, None, torch.from_numpy(view.names_YX)))
        elif kind < sheet_share + scene_share:
            scene = draw_scene(rng.choice(FAMILIES), rng.getrandbits(40), "train")
            views = draw_views(scene, rng, config)
            pictures += [(view.pixels_HW3, None, torch.from_numpy(view.names_YX)) for view in views]
        else:
            page = writer.page(rng, difficulty=difficulty)
            pictures.append((np.asarray(page.image), torch.from_numpy(page.glyphs_YX).long(), None))
        used += sum(pixels.shape[0] * pixels.shape[1] // block_px**2 for pixels, _, _ in pictures[count:])
    return _join(pictures, config)


def _join(pictures: list[tuple[np.ndarray, Tensor | None, Tensor | None]], config: ThinkerConfig) -> DenseBatch:
    """Pixels with a map of glyphs or of names, as one packed batch."""
    side, merge = config.vision.patch_size, config.vision.merge_size
    points = side // POINT_PX
    patches, grids, glyphs, names = [], [], [], []
    for pixels_HW3, glyphs_YX, names_YX in pictures:
        grid = Grid(t=1, h=pixels_HW3.shape[0] // side, w=pixels_HW3.shape[1] // side)
        unknown_YX = torch.full((grid.h, grid.w), IGNORED)
        patches.append(patchify(pixels_HW3, config.vision, config.image))
        grids.append(grid)
        known_YX = unknown_YX.repeat(points, points) if glyphs_YX is None else glyphs_YX
        glyphs.append(_block_order(known_YX, grid, merge, points))
        names.append(_block_order(unknown_YX if names_YX is None else names_YX, grid, merge, 1)[:, 0])
    return DenseBatch(patches_NP=torch.cat(patches), grids=grids, glyphs_NG=torch.cat(glyphs), names_N=torch.cat(names))


def _block_order(points_YX: Tensor, grid: Grid, merge_size: int, side: int) -> Tensor:
    """Points [N, G] of each patch, patches in block order."""
    m = merge_size
    blocks = points_YX.reshape(grid.h // m, m, side, grid.w // m, m, side)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(grid.num_patches, side * side)


class DenseReader(nn.Module):
    """A tower with its heads."""

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        vision, width = config.vision, config.decoder.hidden_size
        points, block = (vision.patch_size // POINT_PX) ** 2, vision.merge_size**2
        self.tower = VisionTower(vision, width)
        self.patch_glyphs = nn.Linear(vision.hidden_size, points * NUM_CLASSES)
        self.token_glyphs = nn.Linear(width, block * points * NUM_CLASSES)
        self.patch_names = nn.Linear(vision.hidden_size, NUM_NAMES)
        self.token_names = nn.Linear(width, block * NUM_NAMES)

    def loss(self, batch: DenseBatch) -> tuple[Tensor, dict[str, float]]:
        """Weighted sum of the heads' mean cross-entropies, and the accuracy of each on points that carry something."""
        features_ND = self.tower.encode(batch.patches_NP.to(self.patch_names.weight.dtype), batch.grids)
        tokens_ME = self.tower.merger(features_ND)
        glyphs, names = batch.glyphs_NG.reshape(-1), batch.names_N
        parts = {
            "patch_glyphs": _labelled(self.patch_glyphs, features_ND, glyphs, BLANK_WEIGHT),
            "token_glyphs": _labelled(self.token_glyphs, tokens_ME, glyphs, BLANK_WEIGHT),
            "patch_names": _labelled(self.patch_names, features_ND, names, NAMELESS_WEIGHT),
            "token_names": _labelled(self.token_names, tokens_ME, names, NAMELESS_WEIGHT),
        }
        losses = [loss * (NAMES_SHARE if name.endswith("names") else 1.0) for name, (loss, _) in parts.items()]
        return torch.stack(losses).sum(), {name: accuracy for name, (_, accuracy) in parts.items()}


def _labelled(head: nn.Linear, x_ND: Tensor, labels: Tensor, zero_weight: float) -> tuple[Tensor, float]:
    """Cross-entropy of the points whose label is known, and the accuracy on those that carry something.

    `zero_weight` is the weight of class 0, the points that carry nothing.
    """
    labels_NG = labels.reshape(len(x_ND), -1)
    known_N = (labels_NG != IGNORED).any(-1)
    labels = labels_NG[known_N].reshape(-1)
    if not len(labels):
        return x_ND.new_zeros((), dtype=torch.float32), 0.0
    logits_GC = head(x_ND[known_N]).unflatten(-1, (labels_NG.shape[1], -1)).flatten(0, 1).float()
    weight = torch.ones(logits_GC.shape[-1])
    weight[0] = zero_weight
    carrying = labels > 0
    right = (logits_GC.detach()[carrying].argmax(-1) == labels[carrying]).float()
    return F.cross_entropy(logits_GC, labels, weight=weight), float(right.mean()) if len(right) else 0.0


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """Settings of the stage."""

    preset: str = "nano"
    blocks_per_batch: int = 300
    sheet_share: float = 0.25
    """Share of the draws that are a sheet of named things."""
    scene_share: float = 0.1
    """Share of the draws that are a scene (two views of it); the rest are pages."""
    ramp_steps: int = 3000
    """Over this many steps pages grow from easy to hard and scenes come in."""


class TowerStage:
    """The stage as the training loop takes it."""

    def __init__(self, config: TowerConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.thinker = PRESETS[config.preset]
        torch.manual_seed(seed)
        self.module = DenseReader(self.thinker).bfloat16()
        self.writer = PageWriter("train", corpus_words())

    def batch(self, index: int) -> DenseBatch:
        """Fresh pages and scenes."""
        config = self.config
        difficulty = min(1.0, index / max(1, config.ramp_steps))
        seed = self.seed * 10_000_019 + index
        return dense_batch(
            self.writer,
            self.thinker,
            seed,
            config.blocks_per_batch,
            difficulty=difficulty,
            sheet_share=config.sheet_share,
            scene_share=difficulty * config.scene_share,
        )

    def loss(self, batch: DenseBatch) -> tuple[Tensor, dict[str, float]]:
        """See DenseReader.loss."""
        return self.module.loss(batch)

    def export(self, folder: Path) -> None:
        """Write the tower alone, named as inside a thinker."""
        tensors = {f"vision.{name}": p.detach().contiguous() for name, p in self.module.tower.named_parameters()}
        save_file(tensors, folder / "tower.safetensors")
