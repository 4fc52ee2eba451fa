"""A script for the faces of the agent: it looks once, then answers; a follow-up uses what was seen.

It reads the conversation and keeps nothing, so another process can go on with it.
"""

from collections.abc import Sequence

from scripted import answer, zoom

from foveate.models.reasoner import Message


def looks_once(messages: Sequence[Message]) -> str:
    """The next turn; "slow" in the question makes it long, "earlier" asks for what was seen before."""
    question, turn = last_question(messages)
    if "slow" in question and turn == 0:
        return answer("done", thought="I think about this for a very long time, " + "on and on, " * 100)
    if "earlier" in question:
        return answer(f"K7, one of {num_images(messages)} images", thought="I have the crop already.")
    if turn == 0:
        return zoom(0, 100, 100, 400, 300, thought="The label is at the upper left.")
    return answer("K7", thought="It reads K7.")


def last_question(messages: Sequence[Message]) -> tuple[str, int]:
    """The text of the last question, and how many turns the model has taken since."""
    idx = max(idx for idx, message in enumerate(messages) if message["role"] == "user")
    text = next(part["text"] for part in messages[idx]["content"] if part["type"] == "text")
    return text, sum(message["role"] == "assistant" for message in messages[idx:])


def num_images(messages: Sequence[Message]) -> int:
    """How many images the conversation holds."""
    contents = [message["content"] for message in messages if not isinstance(message["content"], str)]
    return sum(part["type"] == "image" for content in contents for part in content)
