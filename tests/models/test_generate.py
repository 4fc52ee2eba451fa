"""Cached equals uncached, batched equals alone, log-probs equal a fresh pass, and a turn prefills only the new.

What fails or is wanted no more ends alone, also before it has a slot, while its pictures are looked at and while its
beginning is computed.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from pictures import noise

from foveate.errors import ModelError
from foveate.models import engine
from foveate.models.engine import Engine, Request
from foveate.models.generate import ThinkerReasoner
from foveate.models.sampling import allowed_logprobs
from foveate.models.thinker import Thinker
from foveate.models.transcript import pack
from foveate.models.turn_text import Telling

Messages = list[dict[str, Any]]


def next_turn(messages: Messages, sample: Any, seed: int = 5) -> Messages:
    """The conversation after a sampled turn and an observation with a crop."""
    parts = [{"type": "text", "text": "image 1"}, {"type": "image", "image": noise(60, 80, seed)}]
    turn = {"role": "assistant", "content": sample.text, "token_ids": list(sample.token_ids)}
    return [*messages, turn, {"role": "tool", "name": "zoom", "tool_call_id": "1", "content": parts}]


def fresh_logprobs(thinker: Thinker, messages: Messages, token_ids: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities of a sampled turn by one uncached pass over everything."""
    prompt = thinker.processor(messages, generate=True)
    turn = {"role": "assistant", "content": thinker.processor.codec.decode(token_ids), "token_ids": list(token_ids)}
    whole = thinker.processor([*messages, turn])
    logits = thinker(whole)[len(prompt) - 1 : len(prompt) - 1 + len(token_ids)]
    logprobs = allowed_logprobs(logits, thinker.processor.codec.never_sampled)
    return logprobs.gather(-1, torch.tensor(token_ids)[:, None])[:, 0]


@pytest.mark.parametrize("prefill", [engine.PREFILL, 13], ids=["whole", "in parts"])
def test_logprobs_over_turns_equal_an_uncached_pass(
    thinker: Thinker, conversation: Messages, prefill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PREFILL", prefill)
    reasoner = ThinkerReasoner(thinker)
    messages = conversation
    for seed in range(3):
        sample = reasoner.sample(messages, max_new_tokens=9, temperature=1.0, seed=seed)
        wanted = fresh_logprobs(thinker, messages, sample.token_ids)
        torch.testing.assert_close(torch.tensor(sample.logprobs), wanted, atol=1e-5, rtol=1e-5)
        messages = next_turn(messages, sample, seed)


def test_second_turn_prefills_only_what_is_new(
    thinker: Thinker, conversation: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasoner = ThinkerReasoner(thinker)
    first = reasoner.sample(conversation, max_new_tokens=6, temperature=1.0, seed=0)
    prefilled: list[int] = []
    prefill = reasoner.engine._prefill
    monkeypatch.setattr(
        reasoner.engine, "_prefill", lambda r, start: prefilled.append(len(r.transcript) - start) or prefill(r, start)
    )
    second = reasoner.sample(next_turn(conversation, first), max_new_tokens=3)
    assert prefilled == [second.prompt_tokens - first.prompt_tokens - len(first.token_ids) + 1]


def test_eight_conversations_at_once_equal_one_at_a_time(thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
    conversations = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": noise(60 + 20 * i, 90, i)},
                    {"type": "text", "text": "What?" * i},
                ],
            }
        ]
        for i in range(8)
    ]
    together, sizes = ThinkerReasoner(thinker, num_slots=3), set[int]()
    decode = together.engine._decode
    monkeypatch.setattr(together.engine, "_decode", lambda active: (sizes.add(len(active)), decode(active))[1])
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda m: together.sample(m, max_new_tokens=12, temperature=1.0, seed=3), conversations))
    assert max(sizes) == 3, "all slots decode in one batch"
    for messages, sample in zip(conversations, got, strict=True):
        alone = ThinkerReasoner(thinker).sample(messages, max_new_tokens=12, temperature=1.0, seed=3)
        assert sample.token_ids == alone.token_ids


def test_another_picture_of_the_same_size_is_not_taken_for_the_first(thinker: Thinker) -> None:
    reasoner = ThinkerReasoner(thinker, num_slots=1)
    for seed in (1, 2):
        messages: Messages = [{"role": "user", "content": [{"type": "image", "image": noise(90, 90, seed)}]}]
        sample = reasoner.sample(messages, max_new_tokens=4)
        wanted = fresh_logprobs(thinker, messages, sample.token_ids)
        torch.testing.assert_close(torch.tensor(sample.logprobs), wanted, atol=1e-5, rtol=1e-5)


def test_packed_conversations_do_not_see_each_other(thinker: Thinker, conversation: Messages) -> None:
    one = thinker.processor(conversation)
    two = thinker.processor([{"role": "user", "content": [{"type": "image", "image": noise(40, 70)}]}])
    logits = thinker(pack([one, two]))
    torch.testing.assert_close(logits[: len(one)], thinker(one), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[len(one) :], thinker(two), atol=1e-5, rtol=1e-5)


def test_only_the_policys_tokens_are_marked(thinker: Thinker, conversation: Messages) -> None:
    sample = ThinkerReasoner(thinker).sample(conversation, max_new_tokens=5, temperature=1.0, seed=1)
    transcript = thinker.processor(next_turn(conversation, sample))
    assert tuple(transcript.token_ids[transcript.by_policy_T].tolist()) == sample.token_ids


def test_stops_for_length_and_for_the_caller(thinker: Thinker, conversation: Messages) -> None:
    reasoner, seen = ThinkerReasoner(thinker), []
    assert reasoner.sample(conversation, max_new_tokens=3, temperature=1.0, seed=0).stop_reason == "length"
    assert reasoner.sample(conversation, max_new_tokens=0).token_ids == ()
    sample = reasoner.sample(
        conversation, max_new_tokens=50, temperature=1.0, seed=0, on_text=seen.append, should_stop=lambda: len(seen) > 1
    )
    assert sample.stop_reason == "cancelled"
    assert "".join(seen) == sample.text[: len("".join(seen))]


def test_logits_that_are_no_numbers_are_an_error(thinker: Thinker, conversation: Messages) -> None:
    import copy

    broken = copy.deepcopy(thinker)
    broken.decoder.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not numbers"):
        ThinkerReasoner(broken).sample(conversation, max_new_tokens=2)


def test_a_turn_ends_at_the_longest_that_the_model_takes(
    thinker: Thinker, conversation: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinker, "config", replace(thinker.config, max_turn_tokens=5))
    sample = ThinkerReasoner(thinker).sample(conversation, max_new_tokens=50)
    assert (len(sample.token_ids), sample.stop_reason) == (5, "length")


def test_a_step_that_is_broken_off_ends_its_turns_and_no_other(thinker: Thinker, conversation: Messages) -> None:
    reasoner = ThinkerReasoner(thinker)
    wanted = reasoner.sample(conversation, max_new_tokens=6)

    def break_off(_: str) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reasoner.sample(conversation, max_new_tokens=6, on_text=break_off)
        assert reasoner.sample(conversation, max_new_tokens=6) == wanted


def asked(thinker: Thinker, words: str, **settings: Any) -> Request:
    """A turn of 9 tokens, not begun."""
    transcript = thinker.processor([{"role": "user", "content": words}], generate=True)
    generator = torch.Generator().manual_seed(len(words))
    return Request(transcript=transcript, max_new_tokens=9, temperature=1.0, generator=generator, **settings)


def raises(error: BaseException) -> Any:
    def broken(*_: Any) -> None:
        raise error

    return broken


@pytest.mark.parametrize("place", ["on_text", "should_stop", "temperature"])
def test_a_turn_that_fails_ends_alone(thinker: Thinker, place: str) -> None:
    wanted = Engine(thinker).run(asked(thinker, "What?")).token_ids
    engine, gone, other = Engine(thinker), ConnectionError("the client went away"), asked(thinker, "the image")
    if place == "temperature":
        other.temperature = 1e308
    else:
        setattr(other, place, raises(gone))
    other.telling = Telling(other.on_text)
    engine.waiting.append(other)  # as another thread's
    assert engine.run(asked(thinker, "What?")).token_ids == wanted
    again, fresh = (each.run(asked(thinker, "the image")) for each in (engine, Engine(thinker)))
    assert again.token_ids == fresh.token_ids
    assert other.stop_reason == "cancelled"
    assert other.failure is gone if place != "temperature" else isinstance(other.failure, RuntimeError)


def test_what_a_callback_raises_comes_to_its_caller(thinker: Thinker, conversation: Messages) -> None:
    for error in (ConnectionError("went away"), RuntimeError("went away")):
        with pytest.raises(type(error), match=r"\Awent away"):
            ThinkerReasoner(thinker).sample(conversation, max_new_tokens=9, on_text=raises(error))
        with pytest.raises(type(error), match=r"\Awent away"):
            ThinkerReasoner(thinker).sample(conversation, max_new_tokens=9, should_stop=raises(error))


def test_no_turn_is_lost_when_its_beginning_is_broken_off(thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, other = Engine(thinker), asked(thinker, "the image")
    engine.waiting.append(other)
    with monkeypatch.context() as patched:
        patched.setattr(engine.cache, "copy_prefix", raises(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            engine.run(asked(thinker, "What?"))
    assert isinstance(other.failure, ModelError)
    assert (other.stop_reason, engine.waiting) == ("cancelled", [])


def test_who_waits_for_a_slot_is_asked_whether_to_go_on(thinker: Thinker) -> None:
    engine, first = Engine(thinker, num_slots=1), asked(thinker, "What?")
    other = asked(thinker, "the image", place=(0, 1), should_stop=lambda: len(first.token_ids) > 2)
    engine.waiting.append(other)
    ended_with = []
    first.should_stop = lambda: ended_with.append(other.stop_reason)
    engine.run(first)
    assert (other.stop_reason, other.token_ids, other.failure) == ("cancelled", [], None)
    assert ended_with[-1] == "cancelled"
    assert ended_with[3] is None
    assert len(first.token_ids) == 9


def test_a_beginning_that_is_cut_keeps_its_parts(
    thinker: Thinker, conversation: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PREFILL", 13)
    reasoner = ThinkerReasoner(thinker, num_slots=1)
    lengths = reasoner.engine.cache.lengths
    cut = reasoner.sample(conversation, max_new_tokens=6, should_stop=lambda: lengths[0] >= 26)
    assert (cut.stop_reason, cut.token_ids, lengths[0]) == ("cancelled", (), 26)
    assert len(reasoner.engine.slots[0].keys) == 26
    assert reasoner.sample(conversation, max_new_tokens=6) == ThinkerReasoner(thinker).sample(
        conversation, max_new_tokens=6
    )


def test_a_look_that_is_wanted_no_more_ends_between_blocks(thinker: Thinker, conversation: Messages) -> None:
    reasoner, answers = ThinkerReasoner(thinker), iter([False, False])  # before the turn and the first block
    cut = reasoner.sample(conversation, max_new_tokens=6, should_stop=lambda: next(answers, True))
    assert (cut.stop_reason, cut.token_ids, len(reasoner.engine.seen.tokens)) == ("cancelled", (), 0)
    assert reasoner.sample(conversation, max_new_tokens=6) == ThinkerReasoner(thinker).sample(
        conversation, max_new_tokens=6
    )
