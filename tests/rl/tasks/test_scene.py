"""A scene is a function of family, seed and split; its questions are different, short and not to be guessed.

nano-test asks what the golden file says. When it shall ask something else, SUITE_VERSION grows and
`python tests/rl/tasks/test_scene.py` writes the file of the new version.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.rl.suite import SUITE_VERSION, item_of
from foveate.rl.tasks.assets import SPLITS, Split
from foveate.rl.tasks.scene import FAMILIES, Scene, draw_scene

GOLDEN = Path(__file__).parents[2] / "golden" / f"nano-test-{SUITE_VERSION}.jsonl"
Scenes = Callable[[str, Split], tuple[Scene, ...]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_three_values_give_the_same_scene(family: str, scenes: Scenes) -> None:
    first, again = scenes(family, "train")[3], draw_scene(family, 3, "train")
    assert first.image.tobytes() == again.image.tobytes()
    assert first.questions == again.questions


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_and_seeds_give_different_pictures(family: str, scenes: Scenes) -> None:
    pictures = {scene.image.tobytes()[:300_000] for split in SPLITS for scene in scenes(family, split)[:4]}
    assert len(pictures) > 6  # two plain pages may begin alike
    texts = {tuple(q.text for q in scene.questions) for split in SPLITS for scene in scenes(family, split)}
    assert len(texts) == sum(len(scenes(family, split)) for split in SPLITS)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_scene_is_a_large_picture_with_different_questions(family: str, split: Split, scenes: Scenes) -> None:
    for scene in scenes(family, split):
        assert scene.image.mode == "RGB"
        assert 1200 <= max(scene.image.size) <= 2500
        assert 1 <= len(scene.questions) <= 5
        assert len({question.text for question in scene.questions}) == len(scene.questions)
        for question in scene.questions:
            assert question.family == family
            assert 1 <= len(question.answer) <= 20
            assert question.answer not in question.accept
            assert question.answer in question.final_thought
            assert len(question.final_thought) < 90


@pytest.mark.parametrize("family", FAMILIES)
def test_most_scenes_have_several_questions(family: str, scenes: Scenes) -> None:
    counts = [len(scene.questions) for split in SPLITS for scene in scenes(family, split)]
    assert sum(count >= 2 for count in counts) >= 0.9 * len(counts)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_answer_is_common(family: str, scenes: Scenes) -> None:
    drawn = [scene for split in SPLITS for scene in scenes(family, split)]
    drawn += [draw_scene(family, seed, "train") for seed in range(1000, 1006)]
    answers = Counter(q.answer for scene in drawn for q in scene.questions)
    assert answers.most_common(1)[0][1] <= 0.1 * answers.total()


def nano_test(scenes: Scenes) -> list[dict[str, Any]]:
    """The first 24 questions of nano-test; boxes in whole pixels."""
    items = [item_of(scenes(family, "test")[turn], "nano-test") for turn in range(4) for family in FAMILIES]
    return [
        {
            "id": item.id,
            "question": item.question,
            "answer": item.answer,
            "accept": list(item.accept),
            "evidence": [[round(side) for side in box] for box in item.evidence],
        }
        for item in items
    ]


def test_nano_test_asks_what_it_asked(scenes: Scenes) -> None:
    """Text must be the same, boxes within what another Pillow's fonts move them."""
    kept = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    for now, then in zip(nano_test(scenes), kept, strict=True):
        boxes, before = now.pop("evidence"), then.pop("evidence")
        assert now == then
        assert np.asarray(boxes) == pytest.approx(np.asarray(before), abs=4), now["id"]


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="family 'maze'; wanted one of label"):
        draw_scene("maze", 0, "train")


if __name__ == "__main__":
    rows = nano_test(lambda family, split: tuple(draw_scene(family, seed, split) for seed in range(4)))
    GOLDEN.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
