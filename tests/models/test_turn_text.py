"""A turn ends where its model would make up what a tool returns, and its text arrives whole.

Proved of the engine with what a model is made to say: ids, text and pieces end before the mark, or with the token that
holds the end of something else besides; several calls stay; the next turn computes only what is new; nano goes on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import qwen
import torch

from foveate.models import Thinker, ThinkerReasoner, engine
from foveate.models.reasoner import OTHERS_TURN, Sample
from foveate.models.turn_text import Telling, before_others_turn

pytestmark = pytest.mark.usefixtures("quiet")

QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "What is 6 times 7?"}]
CALL = "<tool_call>{}</tool_call>\n"


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory: pytest.TempPathFactory) -> ThinkerReasoner:
    folder = tmp_path_factory.mktemp("qwen")
    qwen.save("qwen2_5_vl", folder)
    return ThinkerReasoner(Thinker.from_pretrained(folder), num_slots=1)


def say(reasoner: ThinkerReasoner, text: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Sample:
    """What comes of a model that would say this and go on."""
    codec = reasoner.thinker.processor.codec
    ids = iter([*codec.encode_model_text(text), codec.end_of_turn])
    monkeypatch.setattr(engine, "pick", lambda *_: next(ids))
    return reasoner.sample(QUESTION, max_new_tokens=200, **settings)


@pytest.mark.parametrize("said", ["", CALL, CALL * 2, "é <tool_", "<tool_response"])
def test_a_turn_ends_where_another_would_begin(
    said: str, reasoner: ThinkerReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[str] = []
    codec = reasoner.thinker.processor.codec
    sample = say(reasoner, f"{said}{OTHERS_TURN}\nok</tool_response>42", monkeypatch, on_text=pieces.append)
    assert (sample.text, sample.stop_reason) == (said, "stop")
    assert "".join(pieces) == said
    whole = codec.encode_model_text(f"{said}{OTHERS_TURN}")
    assert sample.token_ids == tuple(codec.encode_model_text(said) or whole[:1])  # one stays, so that it was sampled
    assert len(sample.logprobs) == len(sample.token_ids)


def test_what_only_looks_like_it_goes_on(reasoner: ThinkerReasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []
    said = f"{CALL}<tool_respond> <tool_response <b> é"
    sample = say(reasoner, said, monkeypatch, on_text=pieces.append)
    assert (sample.text, "".join(pieces)) == (said, said)
    assert sample.token_ids[-1] == reasoner.thinker.processor.codec.end_of_turn


def test_the_next_turn_computes_only_what_is_new(reasoner: ThinkerReasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = say(reasoner, f"{CALL}{OTHERS_TURN}\nok", monkeypatch)
    turn = {"role": "assistant", "content": sample.text, "token_ids": list(sample.token_ids)}
    prefilled: list[int] = []
    prefill = reasoner.engine._prefill
    monkeypatch.setattr(
        reasoner.engine, "_prefill", lambda r, start: prefilled.append(len(r.transcript) - start) or prefill(r, start)
    )
    monkeypatch.setattr(engine, "pick", lambda logprobs_V, *_: int(logprobs_V.argmax()))
    messages = [*QUESTION, turn, {"role": "tool", "content": "4"}]
    second = reasoner.sample(messages, max_new_tokens=4)
    assert prefilled == [second.prompt_tokens - sample.prompt_tokens - len(sample.token_ids)]
    anew = ThinkerReasoner(reasoner.thinker).sample(messages, max_new_tokens=4)
    assert second.token_ids == anew.token_ids
    torch.testing.assert_close(torch.tensor(second.logprobs), torch.tensor(anew.logprobs), rtol=1e-5, atol=1e-5)


def test_nano_goes_on(thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"{CALL}{OTHERS_TURN}ok</tool_response>"
    assert say(ThinkerReasoner(thinker), said, monkeypatch).text == said


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [
        (["a", "<tool", "_response", ">"], 1),
        (["<tool_response>"], 1),
        (["</tool_call", "><", "tool_response", ">\n"], 2),
        ([*"ab", *OTHERS_TURN], 2),
        (["a", "<tool_response>", "b"], None),
        (["a", "<tool_response", "b>"], None),
    ],
)
def test_the_token_that_holds_the_end_of_something_else_stays(pieces: list[str], kept: int | None) -> None:
    def decode(ids: Sequence[int]) -> str:
        return "".join(pieces[index] for index in ids)

    assert before_others_turn(range(len(pieces)), decode) == kept


def test_pieces_are_the_whole_text_also_where_a_character_lacks_bytes(tmp_path: Path) -> None:
    qwen.save("qwen3_vl", tmp_path)
    reasoner, broken = ThinkerReasoner(Thinker.from_pretrained(tmp_path), num_slots=1), 0
    for seed in range(8):
        pieces: list[str] = []
        sample = reasoner.sample(QUESTION, max_new_tokens=12, temperature=1.0, seed=seed, on_text=pieces.append)
        assert "".join(pieces) == sample.text
        broken += sample.text.endswith("\ufffd")
    assert broken


def test_what_may_be_the_beginning_of_the_mark_waits() -> None:
    pieces: list[str] = []
    telling = Telling(pieces.append, mark="<ab>")
    for text in ("x", "x<", "x<a", "x<ac", "x<ac\ufffd", "x<acé<"):
        telling.so_far(text)
    assert pieces == ["x", "<ac", "é"]
    telling.whole("x<acé<")
    assert "".join(pieces) == "x<acé<"
