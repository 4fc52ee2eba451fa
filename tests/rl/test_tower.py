"""Dense labels lie where the things are, at first view and in crops."""

import torch

from foveate.models.config import NANO
from foveate.rl.pages import PageWriter, corpus_words
from foveate.rl.tasks.scene import FAMILIES, draw_scene
from foveate.rl.tower import IGNORED, dense_batch
from foveate.rl.views import CLASS_OF, draw_view


def test_a_batch_has_labels_of_one_kind_for_every_patch() -> None:
    batch = dense_batch(
        PageWriter("train", corpus_words()), NANO, 1, 600, difficulty=1.0, sheet_share=0.2, scene_share=0.3
    )
    assert len(batch.patches_NP) == sum(grid.num_patches for grid in batch.grids) == len(batch.glyphs_NG)
    on_page_N = (batch.glyphs_NG != IGNORED).all(-1)
    assert torch.equal(on_page_N, batch.names_N1[:, 0] == IGNORED)
    assert torch.equal(batch.glyphs_NG == IGNORED, batch.starts_NG == IGNORED)
    assert 0.1 < on_page_N.float().mean() < 0.9
    assert (batch.names_N1 > 0).any()


def test_the_patch_at_the_middle_of_a_mark_has_its_name() -> None:
    for family in FAMILIES:
        scene = draw_scene(family, 1, "train")
        mark = next(mark for mark in scene.marks if mark.name in CLASS_OF)
        x0, y0, x1, y1 = mark.box
        width, height = scene.image.size
        for box in ((0, 0, width, height), (max(0, int(x0) - 90), max(0, int(y0) - 90), int(x1) + 1, int(y1) + 1)):
            names_YX = draw_view(scene.image, scene.marks, box, NANO).names_YX
            row = int(((y0 + y1) / 2 - box[1]) / (box[3] - box[1]) * names_YX.shape[0])
            column = int(((x0 + x1) / 2 - box[0]) / (box[2] - box[0]) * names_YX.shape[1])
            assert names_YX[row, column] == CLASS_OF[mark.name], (family, mark.name, box)
