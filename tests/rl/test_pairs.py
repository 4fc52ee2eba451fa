"""Rollouts of one question become pairs, each for a reason.

Proved on made-up conversations: right over wrong, chosen first who saw the evidence; evidence seen over unseen; short
over long among those alike in that; of one question each and whole conversations only.
"""

from typing import Any

import torch

from foveate.agent.images import ImageStore
from foveate.rl.pairs import pairs_of
from foveate.rl.trajectory import Saved


def saved(name: str, group: int, *, right: bool, tokens: int, saw: bool = True, status: Any = "answered") -> Saved:
    return Saved(
        id=name, group=group, family="label", question="?", expected="x", answer="x" if right else "y", right=right,
        reward=float(right), status=status, tool_calls=0, saw_evidence=saw, messages=(), run={},
        sampled_S=torch.zeros(tokens), pictures=ImageStore(),
    )  # fmt: skip


def test_pairs_are_of_one_question_and_for_a_reason() -> None:
    group = [
        saved("long", 0, right=True, tokens=40),
        saved("short", 0, right=True, tokens=20),
        saved("blind", 0, right=True, tokens=5, saw=False),
        saved("wrong", 0, right=False, tokens=20),
        saved("cut", 0, right=False, tokens=20, status="out_of_budget"),
        saved("other", 1, right=False, tokens=20),
        saved("alike", 2, right=True, tokens=20),
        saved("alike too", 2, right=True, tokens=21),
    ]
    found = {(pair.chosen.id, pair.rejected.id, pair.reason) for pair in pairs_of(group)}
    assert found == {("short", "wrong", "right"), ("short", "blind", "faithful"), ("short", "long", "short")}


def test_who_saw_the_evidence_is_chosen_before_who_is_shortest() -> None:
    rights = [
        saved(f"{tokens} {saw}", 0, right=True, tokens=tokens, saw=saw)
        for tokens, saw in ((5, False), (9, True), (7, True))
    ]
    wrongs = [saved(f"wrong {idx}", 0, right=False, tokens=20) for idx in range(3)]
    found = [pair.chosen.id for pair in pairs_of([*rights, *wrongs]) if pair.reason == "right"]
    assert found == ["7 True", "9 True", "5 False"]


def test_short_over_long_needs_no_look() -> None:
    lengths = (9, 30, 12, 31, 20)
    group = [saved(str(count), 0, right=True, tokens=count, saw=False) for count in lengths]
    found = [(pair.chosen.id, pair.rejected.id, pair.reason) for pair in pairs_of(group)]
    assert found == [("9", "31", "short"), ("12", "30", "short")]
