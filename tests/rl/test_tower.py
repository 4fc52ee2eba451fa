"""Dense labels lie where the things are, at first view and in crops."""

import random
from pathlib import Path

import numpy as np
import torch

from foveate.models.config import NANO
from foveate.models.tokenizer import TextCodec
from foveate.rl.lessons.dense import name_words
from foveate.rl.lessons.pages import CELL_PX, PageWriter, corpus_words
from foveate.rl.lessons.views import IGNORED, NAME_CLASS, draw_views, label_view
from foveate.rl.tasks.scene import FAMILIES, draw_scene
from foveate.rl.tower import dense_batch

TOKENIZER = Path(__file__).parents[2] / "models" / "nano" / "weights" / "tokenizer.json"


def test_a_batch_has_labels_for_every_patch() -> None:
    codec = TextCodec.from_file(TOKENIZER)
    writer = PageWriter("train", corpus_words())
    batch = dense_batch(writer, NANO, codec, 1, 600, difficulty=1.0, sheet_share=0.2, scene_share=0.3)
    labels = batch.labels
    assert len(batch.patches_NP) == sum(grid.num_patches for grid in batch.grids) == len(labels.glyphs_NG)
    assert torch.equal(labels.glyphs_NG == IGNORED, labels.starts_NG == IGNORED)
    on_page_N = labels.names_N1[:, 0] == IGNORED
    assert 0.1 < on_page_N.float().mean() < 0.9
    assert (labels.glyphs_NG[on_page_N] != IGNORED).all()
    assert (labels.glyphs_NG[~on_page_N] > 0).any()
    assert (labels.names_N1 > 0).any()
    assert ((labels.named_MS == IGNORED).all(-1) == on_page_N.view(-1, 4).all(-1)).all()


def test_a_name_is_told_by_its_last_word_and_its_first() -> None:
    codec, tokens = TextCodec.from_file(TOKENIZER), NANO.vision.named_tokens
    words = name_words(codec, tokens)

    def told(name: str) -> list[str]:
        classes = words[NAME_CLASS[name]].tolist()
        return [codec.decode([tokens[0] + c - 1]) if c else "" for c in classes]

    assert told("red star") == [" star", " red"]
    assert told("penguin") == [" penguin", ""]
    assert told("number 7") == ["", " number"]


def test_the_patch_at_the_middle_of_a_mark_has_its_name() -> None:
    for family in FAMILIES:
        scene = draw_scene(family, 1, "train")
        mark = next(mark for mark in scene.marks if mark.name in NAME_CLASS)
        x0, y0, x1, y1 = mark.box
        width, height = scene.image.size
        for box in ((0, 0, width, height), (max(0, int(x0) - 90), max(0, int(y0) - 90), int(x1) + 1, int(y1) + 1)):
            names_YX = label_view(scene, box, NANO).names_YX
            row = int(((y0 + y1) / 2 - box[1]) / (box[3] - box[1]) * names_YX.shape[0])
            column = int(((x0 + x1) / 2 - box[0]) / (box[2] - box[0]) * names_YX.shape[1])
            assert names_YX[row, column] == NAME_CLASS[mark.name], (family, mark.name, box)


def test_characters_of_a_scene_are_where_its_ink_is() -> None:
    on_text, elsewhere, starting = list[float](), list[float](), list[bool]()
    for family in FAMILIES:
        for view in draw_views(draw_scene(family, 3, "train"), random.Random(0), NANO):
            labels = view.labels
            rows, columns = labels.glyphs_YX.shape
            cells = view.pixels_HW3.mean(-1).reshape(rows, CELL_PX[0], columns, CELL_PX[1])
            spread_YX = cells.std((1, 3))
            on_text += spread_YX[labels.glyphs_YX > 0].tolist()
            elsewhere += spread_YX[labels.glyphs_YX == 0].tolist()
            starting += (labels.glyphs_YX[labels.starts_YX == 1] > 0).tolist()
    assert len(starting) > 200
    assert np.mean(starting) > 0.95
    assert np.mean(on_text) > 3 * np.mean(elsewhere)


def test_text_that_is_too_small_at_first_view_is_not_asked_of_the_tower() -> None:
    scene = draw_scene("total", 5, "train")
    whole = label_view(scene, (0, 0, *scene.image.size), NANO)
    assert (whole.glyphs_YX == IGNORED).sum() > 50
    assert (whole.glyphs_YX > 0).any()
