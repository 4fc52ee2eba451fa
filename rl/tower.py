"""Stage 1: the tower learns to see. Every visual token says what lies under it.

One short string per picture teaches a tower nothing in 50,000 pictures; a label for every few pixels of a page full of
text teaches it in minutes. Supervised densely are the character under each cell of a page and whether one begins there,
and the thing (icon, coloured shape, large letter or number, flag) under each patch of a sheet or a drawn scene. All are
asked of the features of each patch and of each merged token (what the decoder will see). The heads are thrown away
afterwards.

Shape letters: N patches, M merged tokens, P values of a patch, D tower width, E decoder width, C classes, G cells.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.models.config import PRESETS, ThinkerConfig, VisionConfig
from foveate.models.image import Grid, patchify
from foveate.models.vision import VisionTower
from foveate.ops import compute_dtype
from foveate.rl.pages import CELL_PX, NUM_CLASSES, Page, PageWriter, corpus_words
from foveate.rl.tasks.scene import FAMILIES, draw_scene
from foveate.rl.views import IGNORED, NUM_NAMES, View, draw_sheet, draw_view, draw_views

NOTHING_WEIGHT = {"glyphs": 0.3, "starts": 0.5, "names": 0.1}
"""Weights of the places that carry nothing, which are most."""
LOSS_SHARE = {"glyphs": 1.0, "starts": 0.5, "names": 0.5}
"""Names are noisier than characters: a batch has thousands of characters and a hundred named things."""
MOST_BLOCKS = 120
"""Of a page: a batch holds several."""


@dataclass(frozen=True, kw_only=True)
class DenseBatch:
    """Pages, sheets and views of scenes as the tower takes them, with labels; IGNORED where a label is not known."""

    patches_NP: Tensor
    grids: list[Grid]
    glyphs_NG: Tensor
    """Class of the character under each cell of each patch, row by row, int64."""
    starts_NG: Tensor
    """1 where a character begins in the cell, else 0, int64."""
    names_N1: Tensor
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
            pictures.append(page_view(writer.page(rng, max_blocks=MOST_BLOCKS, difficulty=difficulty), config))
        used += sum(new.pixels_HW3.shape[0] * new.pixels_HW3.shape[1] // block_px**2 for new in pictures[count:])
    return _join(pictures, config)


def page_view(page: Page, config: ThinkerConfig) -> View:
    """A page, which is drawn as the tower takes it; nothing on it has a name."""
    side = config.vision.patch_size
    return View(
        pixels_HW3=np.asarray(page.image),
        names_YX=np.full((page.image.height // side, page.image.width // side), IGNORED),
        glyphs_YX=page.glyphs_YX.astype(np.int64),
        starts_YX=page.starts_YX.astype(np.int64),
    )


def _join(pictures: list[View], config: ThinkerConfig) -> DenseBatch:
    """Pictures with their maps, as one packed batch."""
    side, merge = config.vision.patch_size, config.vision.merge_size
    cells = (side // CELL_PX[0], side // CELL_PX[1])
    grids = [
        Grid(t=1, h=picture.pixels_HW3.shape[0] // side, w=picture.pixels_HW3.shape[1] // side) for picture in pictures
    ]

    def joined(maps: list[np.ndarray], cells: tuple[int, int]) -> Tensor:
        return torch.cat([_block_order(m, grid, merge, cells) for m, grid in zip(maps, grids, strict=True)])

    return DenseBatch(
        patches_NP=torch.cat([patchify(picture.pixels_HW3, config.vision, config.image) for picture in pictures]),
        grids=grids,
        glyphs_NG=joined([picture.glyphs_YX for picture in pictures], cells),
        starts_NG=joined([picture.starts_YX for picture in pictures], cells),
        names_N1=joined([picture.names_YX for picture in pictures], (1, 1)),
    )


def _block_order(map_YX: np.ndarray, grid: Grid, merge_size: int, cells: tuple[int, int]) -> Tensor:
    """Labels [N, G] of each patch's cells, patches in block order."""
    m = merge_size
    blocks = torch.from_numpy(map_YX).reshape(grid.h // m, m, cells[0], grid.w // m, m, cells[1])
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(grid.num_patches, -1)


class DenseReader(nn.Module):
    """A tower with its heads."""

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        vision = config.vision
        self.tower = VisionTower(vision, config.decoder.hidden_size)
        self.patch_heads = _heads(vision, vision.hidden_size, 1)
        self.token_heads = _heads(vision, config.decoder.hidden_size, vision.merge_size**2)

    def loss(self, batch: DenseBatch) -> tuple[Tensor, dict[str, float]]:
        """Weighted sum of the heads' mean cross-entropies, and the accuracy of each where there is something."""
        features_ND = self.tower.encode(batch.patches_NP.to(self.tower.merger.up.weight.dtype), batch.grids)
        tokens_ME = self.tower.merger(features_ND)
        labels = {"glyphs": batch.glyphs_NG, "starts": batch.starts_NG, "names": batch.names_N1}
        losses: list[Tensor] = []
        metrics: dict[str, float] = {}
        for level, x_ND, heads in (("patch", features_ND, self.patch_heads), ("token", tokens_ME, self.token_heads)):
            for kind, head in heads.items():
                loss, accuracy = _labelled(head, x_ND, labels[kind], NOTHING_WEIGHT[kind])
                losses.append(loss * LOSS_SHARE[kind])
                metrics |= {} if accuracy is None else {f"{level}_{kind}": accuracy}
        return torch.stack(losses).sum(), metrics


def _heads(vision: VisionConfig, width: int, patches: int) -> nn.ModuleDict:
    """Linear readouts of what lies under `patches` patches."""
    cells = (vision.patch_size // CELL_PX[0]) * (vision.patch_size // CELL_PX[1]) * patches
    sizes = {"glyphs": cells * NUM_CLASSES, "starts": cells * 2, "names": patches * NUM_NAMES}
    return nn.ModuleDict({kind: nn.Linear(width, size) for kind, size in sizes.items()})


def _labelled(head: nn.Linear, x_ND: Tensor, labels: Tensor, zero_weight: float) -> tuple[Tensor, float | None]:
    """Cross-entropy of the places whose label is known, and the accuracy on those that carry something (None without any).

    `zero_weight` is the weight of class 0, the places that carry nothing.
    """
    labels_NG = labels.reshape(len(x_ND), -1)
    known_N = (labels_NG != IGNORED).any(-1)
    labels = labels_NG[known_N].reshape(-1)
    if not len(labels):
        return x_ND.new_zeros((), dtype=torch.float32), None
    logits_GC = head(x_ND[known_N]).unflatten(-1, (labels_NG.shape[1], -1)).flatten(0, 1).float()
    weight = torch.ones(logits_GC.shape[-1])
    weight[0] = zero_weight
    carrying = labels > 0
    right = (logits_GC.detach()[carrying].argmax(-1) == labels[carrying]).float()
    return F.cross_entropy(logits_GC, labels, weight=weight), float(right.mean()) if len(right) else None


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """Settings of the stage."""

    preset: str = "nano"
    blocks_per_batch: int = 300
    sheet_share: float = 0.25
    """Share of the draws that are a sheet of named things."""
    scene_share: float = 0.1
    """Share of the draws that are a scene (up to four views of it); the rest are pages."""
    ramp_steps: int = 3000
    """Over this many steps pages grow from easy to hard and scenes come in."""


class TowerStage:
    """The stage as the training loop takes it."""

    def __init__(self, config: TowerConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.thinker = PRESETS[config.preset]
        torch.manual_seed(seed)
        self.module = DenseReader(self.thinker).to(compute_dtype())
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
