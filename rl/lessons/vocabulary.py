"""Chooses nano's vocabulary: the pieces that save most tokens in the conversations it will have.

Counted on drawn conversations (what the policy writes and what it is asked), never on the text inside pictures: a piece
that is common because templates repeat it becomes one token, names and codes stay spelled.
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from foveate.models.config import NANO
from foveate.models.reasoner import Message
from foveate.models.tokenizer import MODEL_TAGS, make_tokenizer, split_pieces
from foveate.rl.lessons.oracle_messages import scene_conversation
from foveate.rl.tasks.assets import ICONS
from foveate.rl.tasks.canvas import SHAPES
from foveate.rl.tasks.palette import NAMED
from foveate.rl.tasks.scene import FAMILIES, draw_scene
from foveate.rl.tasks.words import LETTERS

ALWAYS = (
    "user", "assistant", "system", "Read", " after", "Find", "Where", " is", "; the", "the", " page", " letter",
    " number", *(f" {color} {form}" for color in NAMED for form in SHAPES), *(f" {sign}" for sign in LETTERS),
)  # fmt: skip
"""Words of the template and of the reading exercises."""


def count_pieces(num_scenes: int, seed: int) -> Counter[str]:
    """How often each piece of more than one byte is read or written in `num_scenes` conversations of each family."""
    splitter, counts = split_pieces(), Counter[str]()
    rng = random.Random(seed)
    for family in FAMILIES:
        for _ in range(num_scenes):
            scene = draw_scene(family, rng.getrandbits(40), "train")
            for text in _texts(scene_conversation(scene.image, scene.questions).messages):
                counts.update({piece for piece, _ in splitter.pre_tokenize_str(text) if len(piece) > 1})
    return counts


def _texts(messages: Sequence[Message]) -> list[str]:
    """Every text of a conversation, tags taken out."""
    texts: list[str] = []
    for message in messages:
        content = message["content"]
        for text in [content] if isinstance(content, str) else [part.get("text", "") for part in content]:
            texts += re.split("|".join(map(re.escape, MODEL_TAGS)), text)
    return texts


def main() -> None:
    """Write a tokenizer.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/nano/weights/tokenizer.json"))
    parser.add_argument("--scenes", type=int, default=80, help="conversations of each family")
    parser.add_argument("--min-count", type=int, default=20)
    arguments = parser.parse_args()
    counts = count_pieces(arguments.scenes, seed=0)
    splitter = split_pieces()
    always = [
        piece for text in (*ALWAYS, *(f" {name}" for name in ICONS)) for piece, _ in splitter.pre_tokenize_str(text)
    ]
    common = [piece for piece, count in counts.most_common() if count >= arguments.min_count]
    tokenizer = make_tokenizer([*always, *common], NANO.decoder.vocab_size)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(arguments.out))
    print(f"{tokenizer.get_vocab_size()} tokens, {len(common)} pieces seen {arguments.min_count} times or more")


if __name__ == "__main__":
    main()
