"""A list's questions are answered by what stands behind the name, without a picture."""

import random

from foveate.rl.lessons.pages import corpus_words
from foveate.rl.lessons.recall import ASK, BETWEEN, recall_conversation


def test_every_answer_stands_behind_its_name_in_the_list() -> None:
    for seed in range(50):
        conversation = recall_conversation(random.Random(seed), corpus_words())
        assert conversation.images == conversation.boxes == []
        texts = [
            m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] for m in conversation.messages
        ]
        listed = texts[0]
        asked = [text.split("\n")[-1] for text in texts[::2]]
        answers = [text.removeprefix("<answer>").removesuffix("</answer>") for text in texts[1::2]]
        assert len(set(asked)) == len(asked) == len(answers)
        for question, answer in zip(asked, answers, strict=True):
            halves = [form.split("{}") for form in ASK]
            names = [question.removeprefix(before).removesuffix(after) for before, after in halves]
            assert any(f"{name}{between}{answer}" in listed for name in names for between in BETWEEN)


def test_same_seed_same_list() -> None:
    first, second = (recall_conversation(random.Random(3), corpus_words()).messages for _ in range(2))
    assert first == second
