"""Exercises without a picture: a list of names and values, and questions what belongs to a name.

To find a name in what was said and to write what stands behind it is what an answer does with a thought, a follow-up
with an earlier answer, and the fact family with what the search returned. Learned from pictures alone it comes late,
because few of their tokens ask for it; a list has no image tokens and asks for nothing else (docs/log.md).
"""

import random
from collections.abc import Sequence

from foveate.agent.messages import question_message
from foveate.rl.lessons.oracle_messages import Conversation
from foveate.rl.lessons.pages import random_text

BETWEEN = (" ", ": ", " is ", " = ", " has ")
AFTER = (", ", "; ", ". ", "\n")
ASK = ("What is {}?", "Read {}.", "What does {} say?", "Which one is at {}?", "{}?")


def recall_conversation(rng: random.Random, words: Sequence[str], difficulty: float = 1.0) -> Conversation:
    """A list of names with values, and questions about some of them in any order.

    At `difficulty` 0 it is one name and its value; at 1 up to nine.
    """
    names = list(dict.fromkeys(random_text(rng, words) for _ in range(rng.randint(1, 1 + round(8 * difficulty)))))
    values = [random_text(rng, words) for _ in names]
    between, after = rng.choice(BETWEEN), rng.choice(AFTER)
    listed = after.join(f"{name}{between}{value}" for name, value in zip(names, values, strict=True))
    conversation = Conversation(None)
    order = rng.sample(range(len(names)), rng.randint(1, len(names)))
    for turn, idx in enumerate(order):
        asked = rng.choice(ASK).format(names[idx])
        text = asked if turn else f"{listed}\n{asked}"
        conversation.say(question_message(text), f"<answer>{values[idx]}</answer>")
    return conversation
