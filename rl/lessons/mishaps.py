"""Calls that fail: who has only seen tools work writes anything at all where one does not.

The last call of a question that computes or looks something up gets an error in place of its result, in the words of
the tools themselves, and the answer says that it is not known.
"""

import random
from dataclasses import replace

from foveate.rl.tasks.scene import Question
from foveate.tools.sandbox import ABSENT, refusal
from foveate.tools.search import NO_RESULT

PROBED = (ABSENT, "bwrap: No permissions to create a new namespace", "bwrap: setting up uid map: Permission denied")
"""What the probe of the sandbox says where there is none."""
ERRORS = {
    "python": (
        *(f"python: {refusal(found)}" for found in PROBED),
        "python: the code ran longer than 30 s and was interrupted; variables are kept",
        "python: the code kernel died; variables are lost, the next cell starts anew",
        "not run: the time is up",
    ),
    "search": (
        NO_RESULT,
        "search: the search timed out; search again or use the local index",
        "search: no search engine gave an answer; use the local index",
        "not run: the time is up",
    ),
}
THOUGHTS = {"python": "The code did not run.", "search": "The search found nothing."}
UNKNOWN = "unknown"


def failing(question: Question, rng: random.Random) -> Question:
    """The question as it ends when its last call but for looks fails; itself where there is none."""
    calls = [number for number, step in enumerate(question.steps) if step.tool in ERRORS]
    if not calls:
        return question
    *before, call = question.steps[: calls[-1] + 1]
    failed = replace(call, result=rng.choice(ERRORS[call.tool]))
    return replace(question, steps=(*before, failed), final_thought=THOUGHTS[call.tool], answer=UNKNOWN, accept=())
