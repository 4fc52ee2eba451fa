"""The model that ships answers the question of `make demo`, and needs its zooms to do so; others it answers too."""

import re
from pathlib import Path

from needs import needs_bubblewrap
from PIL import Image

from foveate.agent.agent import Agent
from foveate.models import nano_path
from foveate.rl.evaluate import evaluate
from foveate.rl.sources import weights_in
from foveate.rl.tasks.scene import FAMILIES

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo.png"
NUMBERS = ((743, 725), (131, 491))
"""The middles of the numbers under the dog and the anchor, in pixels of the picture."""


def question() -> str:
    """What the Makefile asks about the picture."""
    found = re.search(r"^QUESTION \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found
    return found[1]


@needs_bubblewrap
def test_the_demo_is_answered_after_two_zooms_and_a_calculation() -> None:
    with Agent("nano") as agent:
        answer = agent.ask(question(), [DEMO])
    assert (answer.text, answer.status) == ("90", "answered")
    calls = [step for step in answer.steps if step.kind == "tool"]
    assert [call.tool for call in calls] == ["zoom", "zoom", "python"]
    for call, (x, y) in zip(calls, NUMBERS, strict=False):
        assert call.box_px is not None
        assert call.box_px[0] < x < call.box_px[2]
        assert call.box_px[1] < y < call.box_px[3]


def test_the_weights_are_as_small_as_was_wanted() -> None:
    assert sum(path.stat().st_size for path in weights_in(nano_path())) <= 32_000_000


def test_who_sees_grey_in_place_of_the_crops_does_not_know_the_answer() -> None:
    with Agent("nano", observe_image=lambda crop: Image.new("RGB", crop.size, (128, 128, 128))) as agent:
        answer = agent.ask(question(), [DEMO])
    assert answer.status in ("answered", "out_of_budget")
    assert any(step.tool == "zoom" and not step.failed for step in answer.steps)
    assert answer.text != "90"


@needs_bubblewrap
def test_two_questions_of_each_family_are_answered_as_a_rule() -> None:
    total = evaluate("nano-validation", model="nano", limit=2 * len(FAMILIES)).total
    assert total.n == 12
    assert total.right >= 9
