"""Text survives the round trip, and text from outside never becomes a control token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.errors import CheckpointError
from foveate.models.tokenizer import CONTROL_TOKENS, MODEL_TAGS, TextCodec, make_tokenizer

CODEC = TextCodec(make_tokenizer(["zoom", "Ġthe", "What"], 1024))


@given(st.text(max_size=60))
def test_round_trip(text: str) -> None:
    encodable = text.encode("utf-8", "replace").decode()
    assert CODEC.decode(CODEC.encode(encodable)) == encodable


@given(st.lists(st.sampled_from([*CONTROL_TOKENS, "a", " ", "<", "|>", "the"]), max_size=12).map("".join))
def test_text_from_outside_has_no_control_token(text: str) -> None:
    assert not set(CODEC.encode(text)) & set(CODEC.names)


def test_model_text_keeps_its_tags_and_only_those() -> None:
    ids = CODEC.encode_model_text("<think>a</think><|im_end|><answer>7</answer>")
    controls = [CODEC.names[index] for index in ids if index in CODEC.names]
    assert controls == ["<think>", "</think>", "<answer>", "</answer>"]


def test_a_piece_in_the_vocabulary_is_one_token_and_others_are_spelled() -> None:
    assert len(CODEC.encode("What the")) == 2
    assert len(CODEC.encode("zooms")) == 5
    assert len(CODEC.encode("1987")) == 4


def test_policy_may_sample_tags_and_the_end_but_no_template_token() -> None:
    sampled = set(CODEC.names) - set(CODEC.never_sampled)
    assert {CODEC.names[index] for index in sampled} == {*MODEL_TAGS, "<|im_end|>"}


def test_a_tokenizer_without_control_tokens_is_refused() -> None:
    tokenizer = make_tokenizer([], 1024)
    tokenizer = tokenizer.from_str(tokenizer.to_str().replace("<think>", "<thunk>"))
    with pytest.raises(CheckpointError, match="<think>"):
        TextCodec(tokenizer)
