"""Dense supervision: every visual token says what lies under it.

Asked are the character under each cell of a picture and whether one begins there, the thing (icon, coloured shape,
large letter or number, flag) under each patch, and of merged tokens also what they spell: a decoder that reads finds
the third character of a token in one direction, and not in as many as there are places for it. The readouts are linear
and thrown away after training; what they teach stays in the features.

Shape letters: N patches, M rows of features (patches or merged tokens), D their width, C classes, G cells of a patch,
S characters of a merged token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.models.config import VisionConfig
from foveate.models.image import Grid
from foveate.models.speller import Speller
from foveate.models.tokenizer import TextCodec
from foveate.models.vision import VisionTower
from foveate.rl.lessons.pages import CELL_PX, NUM_CLASSES
from foveate.rl.lessons.spelling import IGNORED, Spelling, Text
from foveate.rl.lessons.views import NAMES, NUM_NAMES, ViewLabels

NOTHING_WEIGHT = {"glyphs": 0.3, "starts": 0.5, "names": 0.1, "spelled": 0.3, "named": 0.1}
"""Weights of the places that carry nothing, which are most."""
LOSS_SHARE = {"glyphs": 1.0, "starts": 0.5, "names": 0.5, "spelled": 1.0, "named": 1.0}
"""Names are noisier than characters: a batch has thousands of characters and a hundred named things."""
EMPTY_KEPT = 4
"""Of the rows that carry nothing one in this many is asked, and every one beside a thing that is counted: there the
places that carry nothing weigh as much as others, or a tower that is not sure says a thing twice (docs/log.md)."""


@dataclass(frozen=True, kw_only=True)
class DenseLabels:
    """What lies under the patches of packed pictures, in block order; IGNORED where nobody knows. Tensors are int64."""

    glyphs_NG: Tensor
    """Class of the character under each cell of each patch, row by row."""
    starts_NG: Tensor
    """1 where a character begins in the cell, else 0."""
    names_N1: Tensor
    """Class of the thing under each patch."""
    texts: tuple[Text, ...]
    """What stands in each view."""
    named_MS: Tensor
    """Classes of the words for what each merged token shows."""

    @classmethod
    def of(cls, views: Sequence[ViewLabels], config: VisionConfig, codec: TextCodec) -> "DenseLabels":
        """The labels of views, joined."""
        side, merge = config.patch_size, config.merge_size
        cells = (side // CELL_PX[0], side // CELL_PX[1])
        grids = [view.grid for view in views]

        def joined(maps: list[np.ndarray], cells: tuple[int, int]) -> Tensor:
            return torch.cat([_block_order(m, grid, merge, cells) for m, grid in zip(maps, grids, strict=True)])

        names_N1 = joined([view.names_YX for view in views], (1, 1))
        name_M = names_N1.view(-1, merge**2).max(dim=1).values
        return cls(
            glyphs_NG=joined([view.glyphs_YX for view in views], cells),
            starts_NG=joined([view.starts_YX for view in views], cells),
            names_N1=names_N1,
            texts=tuple(view.text for view in views),
            named_MS=name_words(codec, config.named_tokens)[name_M.clamp_min(0)].masked_fill(
                name_M[:, None] < 0, IGNORED
            ),
        )

    def padded(self, num_patches: int) -> "DenseLabels":
        """The same followed by patches of which nothing is known, `num_patches` in all."""
        missing = num_patches - len(self.names_N1)
        parts = {
            name: F.pad(labels, (0, 0, 0, missing), value=IGNORED)
            for name, labels in (("glyphs_NG", self.glyphs_NG), ("starts_NG", self.starts_NG))
        }
        tokens = missing * len(self.named_MS) // max(1, len(self.names_N1))
        return DenseLabels(
            **parts,
            names_N1=F.pad(self.names_N1, (0, 0, 0, missing), value=IGNORED),
            texts=(*self.texts, Text(rows=1, columns=tokens, letters=())),
            named_MS=F.pad(self.named_MS, (0, 0, 0, tokens), value=IGNORED),
        )


@cache
def name_words(codec: TextCodec, tokens: tuple[int, int]) -> Tensor:
    """For each class of a name [C, 2] its last word and, when it has several, its first; 0 for those not in `tokens`.

    Words are numbered from 1 in the order of `tokens`, the first and the end of their ids.
    """
    words = [[0, 0]]
    for name in NAMES:
        known = [index - tokens[0] + 1 if tokens[0] <= index < tokens[1] else 0 for index in codec.encode(f" {name}")]
        words.append([known[-1], known[0] if len(known) > 1 else 0])
    return torch.tensor(words)


def _block_order(map_YX: np.ndarray, grid: Grid, merge_size: int, cells: tuple[int, int]) -> Tensor:
    """Labels [N, G] of each patch's cells, patches in block order."""
    m = merge_size
    blocks = torch.from_numpy(map_YX).reshape(grid.h // m, m, cells[0], grid.w // m, m, cells[1])
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(grid.num_patches, -1)


class DenseHeads(nn.ModuleDict):
    """Linear readouts of what lies under the `patches` patches of a row of features."""

    def __init__(self, config: VisionConfig, width: int, patches: int) -> None:
        cells = (config.patch_size // CELL_PX[0]) * (config.patch_size // CELL_PX[1]) * patches
        sizes = {"glyphs": cells * NUM_CLASSES, "starts": cells * 2, "names": patches * NUM_NAMES}
        super().__init__({kind: nn.Linear(width, size) for kind, size in sizes.items()})

    def loss(self, x_MD: Tensor, labels: DenseLabels) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the mean cross-entropies, and the accuracy of each kind where there is something."""
        wanted = {"glyphs": labels.glyphs_NG, "starts": labels.starts_NG, "names": labels.names_N1}
        return _asked({kind: (self[kind], labels_NG) for kind, labels_NG in wanted.items()}, x_MD)


class Chances:
    """What the tower would spell with merged tokens, on its way to the processor while a GPU does other work."""

    def __init__(self, vision: VisionTower, tokens_MD: Tensor) -> None:
        self.log_MSC: Tensor | None = None
        self.arrived: torch.cuda.Event | None = None
        if "spelled" in vision.spellers:
            speller = cast(Speller, vision.spellers["spelled"])
            with torch.no_grad():
                logits_MSC = speller.head(tokens_MD).unflatten(-1, (speller.places, -1))
            self.log_MSC = logits_MSC.float().log_softmax(-1).to("cpu", non_blocking=True)
        if tokens_MD.is_cuda:
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def settled(self, texts: Sequence[Text]) -> Spelling:
        """What the tokens spell where these chances decide; a tower that does not spell has the middles alone."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return Spelling(texts, self.log_MSC)


def spoken_loss(
    vision: VisionTower, tokens_MD: Tensor, spelling: Spelling, named_MS: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """As DenseHeads.loss, of what the projector says of merged tokens."""
    asked: dict[str, tuple[nn.Module, Tensor]] = {}
    for kind, labels_MS in (("spelled", spelling.labels_MS), ("named", named_MS)):
        if kind in vision.spellers:
            speller = cast(Speller, vision.spellers[kind])
            wanted_MS, sayable = labels_MS[:, : speller.places], speller.tokens[1] - speller.tokens[0]
            asked[kind] = speller.head, wanted_MS.masked_fill(wanted_MS > sayable, IGNORED)
    return _asked(asked, tokens_MD, {"spelled": spelling.touched_M})


def _asked(
    asked: dict[str, tuple[nn.Module, Tensor]], x_MD: Tensor, exact: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the losses of heads whose labels are given, and their accuracies; `exact` as in _labelled."""
    total, metrics = x_MD.new_zeros((), dtype=torch.float32), dict[str, Tensor]()
    for kind, (head, wanted) in asked.items():
        exact_M = (exact or {}).get(kind, torch.zeros(len(x_MD), dtype=torch.bool))
        loss, accuracy = _labelled(head, x_MD, wanted.reshape(len(x_MD), -1), NOTHING_WEIGHT[kind], exact_M)
        total = total + LOSS_SHARE[kind] * loss
        metrics |= {} if accuracy is None else {kind: accuracy}
    return total, metrics


def _labelled(
    head: nn.Module, x_MD: Tensor, labels_MG: Tensor, zero_weight: float, exact_M: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy of the places whose label is known, and the accuracy on those that carry something, None without.

    `zero_weight` is the weight of class 0, the places that carry nothing, but for the rows of `exact_M`, where it is 1.
    """
    known_M, carrying_M = (labels_MG != IGNORED).any(-1), (labels_MG > 0).any(-1)
    kept_M = torch.arange(len(x_MD)) % EMPTY_KEPT == 0
    asked = torch.nonzero(known_M & (carrying_M | exact_M | kept_M))[:, 0]
    labels, exact = labels_MG[asked].reshape(-1), exact_M[asked].repeat_interleave(labels_MG.shape[1])
    if not len(labels):
        return x_MD.new_zeros((), dtype=torch.float32), None
    weight = torch.where((labels == 0) & ~exact, zero_weight, 1.0).masked_fill(labels == IGNORED, 0)
    carrying = torch.nonzero(labels > 0)[:, 0]
    asked, labels, weight, carrying = (x.to(x_MD.device) for x in (asked, labels, weight, carrying))
    logits_GC = head(x_MD.index_select(0, asked)).unflatten(-1, (labels_MG.shape[1], -1)).flatten(0, 1).float()
    right = (logits_GC.detach()[carrying].argmax(-1) == labels[carrying]).float()
    loss = (F.cross_entropy(logits_GC, labels, reduction="none") * weight).sum() / weight.sum()
    return loss, right.mean() if len(right) else None
