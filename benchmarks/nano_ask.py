"""Claim: with the native operations nano answers a question in less time than in plain PyTorch."""

from collections.abc import Iterator

from foveate.agent.agent import Agent
from foveate.agent.records import Answer
from foveate.benchmarks.measure import WITHOUT, Case, plainly
from foveate.models.checkpoint import nano_path
from foveate.models.generate import ThinkerReasoner
from foveate.models.thinker import Thinker
from foveate.ops import compute_dtype
from foveate.rl.suite import drawn_item

FAMILIES = ("label", "table", "compare", "pointer")
"""One question of each: they are answered by looking alone, without a kernel whose start would be measured."""


def cases() -> Iterator[Case]:
    """A question from the picture to the answer, nothing kept of the one before, the model loaded."""
    thinker = Thinker.from_pretrained(nano_path(), dtype=compute_dtype())
    reasoner = ThinkerReasoner(thinker)
    agent, items = Agent(reasoner), [drawn_item(family, 1, "test", "bench") for family in FAMILIES]

    def ours(number: int) -> Answer:
        reasoner.forget()
        thinker.processor.forget()
        return agent.ask(items[number].question, [items[number].picture])

    yield Case(
        op="nano_ask",
        shape="a question about a large picture, zooms included",
        dtype=str(thinker.decoder.embed.weight.dtype).removeprefix("torch."),
        differ=True,
        ours=ours,
        peers={WITHOUT: plainly(ours)},
    )
