"""What generation_config.json says of choosing tokens, and how long a turn may be, counts as in transformers.

Proved on tiny random Qwen2.5-VL folders: 64 greedy tokens with a repetition penalty are those of transformers, alone
and in a batch; reported log-probabilities are the policy's own, before penalty and temperature, and rollouts choose by
these alone; the ids that end a turn come from generation_config.json, else from config.json; what models write
themselves can be sampled though their vocabulary calls it special; a turn is as long as asked, up to the model's
context.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import qwen
import torch
import transformers
from pictures import image, text
from tokenizers import AddedToken, Tokenizer

from foveate.errors import CheckpointError, InputError
from foveate.models import Thinker, ThinkerReasoner
from foveate.models.config import TINY
from foveate.models.published.tokens import published_codec
from foveate.models.sampling import allowed_logprobs, penalized, pick

pytestmark = pytest.mark.usefixtures("quiet")

Messages = list[dict[str, Any]]
CONVERSATIONS: list[Messages] = [
    [{"role": "user", "content": "What is 6 times 7?"}],
    [{"role": "user", "content": [image(150, 90, 1), text("What is in the image?")]}],
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    qwen.save("qwen2_5_vl", folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_greedy_tokens_with_a_repetition_penalty(folder: Path) -> None:
    change(folder / "generation_config.json", repetition_penalty=1.05, do_sample=False)
    thinker = Thinker.from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    never, wanted = list(thinker.processor.codec.never_sampled), []
    for messages in CONVERSATIONS:
        inputs = qwen.inputs("qwen2_5_vl", messages, generate=True)
        out = model.generate(**inputs, max_new_tokens=64, do_sample=False, suppress_tokens=never)
        wanted.append(tuple(out[0, inputs["input_ids"].shape[1] :].tolist()))
    assert [thinker.generate(messages, max_new_tokens=64).token_ids for messages in CONVERSATIONS] == wanted
    unchanged = ThinkerReasoner(thinker, truncates=False)
    assert [unchanged.sample(messages, max_new_tokens=64).token_ids for messages in CONVERSATIONS] != wanted
    together = ThinkerReasoner(thinker, num_slots=2)
    with ThreadPoolExecutor(2) as pool:
        sampled = pool.map(lambda messages: together.sample(messages, max_new_tokens=64), CONVERSATIONS)
        assert [sample.token_ids for sample in sampled] == wanted


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("truncates", [True, False])
def test_log_probabilities_are_the_policys_own(folder: Path, truncates: bool, temperature: float) -> None:
    change(folder / "generation_config.json", repetition_penalty=2.0)
    thinker = Thinker.from_pretrained(folder)
    messages = CONVERSATIONS[1]
    prompt = thinker.processor(messages, generate=True)
    reasoner = ThinkerReasoner(thinker, truncates=truncates)
    sample = reasoner.sample(messages, max_new_tokens=9, temperature=temperature, seed=2)
    turn = {"role": "assistant", "content": sample.text, "token_ids": list(sample.token_ids)}
    whole = thinker.processor([*messages, turn])
    logits = thinker(whole)[len(prompt) - 1 :][: len(sample.token_ids)]
    logprobs = allowed_logprobs(logits, thinker.processor.codec.never_sampled)
    wanted = logprobs.gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(sample.logprobs), wanted, atol=1e-4, rtol=1e-4)


def test_a_penalty_is_that_of_transformers() -> None:
    logits, ids = torch.randn(40), torch.tensor([3, 5, 5, 39])
    held = torch.zeros(40, dtype=torch.bool).index_fill(0, ids, True)
    wanted = transformers.RepetitionPenaltyLogitsProcessor(1.3)(ids[None], logits[None].clone())[0]
    assert torch.equal(penalized(logits, held, 1.3), wanted)


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-40])
def test_the_likeliest_is_drawn_at_a_temperature_of_nearly_none(temperature: float) -> None:
    logprobs = torch.randn(40).log_softmax(-1)
    assert pick(logprobs, temperature, None, TINY) == int(logprobs.argmax())


def test_a_file_that_leaves_the_likeliest_token_alone_leaves_the_temperature_to_the_caller(folder: Path) -> None:
    change(folder / "generation_config.json", top_k=1, top_p=0.001, temperature=0.01)
    thinker = Thinker.from_pretrained(folder)
    drawn = {thinker.generate(CONVERSATIONS[0], max_new_tokens=6, temperature=1.5, seed=seed) for seed in range(3)}
    assert len({sample.token_ids for sample in drawn}) == 3
    greedy = thinker.generate(CONVERSATIONS[0], max_new_tokens=6)
    assert thinker.generate(CONVERSATIONS[0], max_new_tokens=6, seed=1) == greedy


def test_a_penalty_that_is_none_is_refused(folder: Path) -> None:
    change(folder / "generation_config.json", repetition_penalty=0.0)
    with pytest.raises(
        CheckpointError, match=r"generation_config\.json: repetition_penalty is 0\.0, wanted more than 0"
    ):
        Thinker.from_pretrained(folder)


@pytest.mark.parametrize("place", ["top", "text", "generation"])
def test_what_ends_a_turn(folder: Path, place: str) -> None:
    values = json.loads((folder / "config.json").read_text())
    settings = {"eos_token_id": [312, 310]}
    if place == "generation":
        change(folder / "generation_config.json", eos_token_id=310)
        change(folder / "config.json", eos_token_id=311)
    else:
        (folder / "generation_config.json").unlink()
        text_config = values["text_config"] | (settings if place == "text" else {})
        change(folder / "config.json", text_config=text_config, **(settings if place == "top" else {}))
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(folder).generation_config.eos_token_id
    thinker = Thinker.from_pretrained(folder)
    end = thinker.processor.codec.end_of_turn
    assert thinker.processor.codec.ends == {*([theirs] if isinstance(theirs, int) else theirs), end}


def test_ends_that_are_no_ids_are_refused(folder: Path) -> None:
    change(folder / "generation_config.json", eos_token_id="x")
    with pytest.raises(CheckpointError, match="eos_token_id is 'x', wanted the id of a token"):
        Thinker.from_pretrained(folder)


def test_what_models_write_can_be_sampled_though_it_is_special() -> None:
    tokenizer = Tokenizer.from_str(qwen.tokenizer().backend_tokenizer.to_str())
    own = [f"<|{what}_{side}|>" for what in ("object_ref", "box", "quad") for side in ("start", "end")]
    own += ["◁think▷", "◁/think▷"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in own])
    image_id, video_id = (tokenizer.token_to_id(f"<|{kind}_pad|>") for kind in ("image", "video"))
    codec = published_codec(tokenizer, {}, {"image_token_id": image_id, "video_token_id": video_id})
    never = {codec.names[index] for index in codec.never_sampled}
    assert never == {*qwen.SPECIAL} - {"<|im_end|>"}
    place = "<|object_ref_start|>the sign<|object_ref_end|><|box_start|>(10,20),(30,40)<|box_end|>"
    ids = codec.encode_model_text(place)
    assert [codec.names[index] for index in ids if index in codec.names] == own[:4]
    assert codec.decode(ids) == place
    assert not set(codec.encode(place)) & set(codec.names)


def test_pads_that_are_not_special_are_never_sampled() -> None:
    tokenizer = Tokenizer.from_str(qwen.tokenizer().backend_tokenizer.to_str())
    tokenizer.add_tokens([AddedToken("<pad_here>", special=False, normalized=False)])
    index = tokenizer.token_to_id("<pad_here>")
    assert index in published_codec(tokenizer, {}, {"image_token_id": index}).never_sampled


def test_a_turn_is_as_long_as_asked(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thinker = Thinker.from_pretrained(saved)
    assert thinker.config.context_tokens == 4096
    monkeypatch.setattr(thinker, "config", thinker.config.__class__(**vars(thinker.config) | {"max_turn_tokens": 3}))
    assert len(thinker.generate(CONVERSATIONS[0], max_new_tokens=5).token_ids) == 5
    assert len(ThinkerReasoner(thinker).sample(CONVERSATIONS[0], max_new_tokens=5).token_ids) == 3


def test_a_context_that_is_too_short_is_said(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", text_config=values["text_config"] | {"max_position_embeddings": 60})
    thinker = Thinker.from_pretrained(folder)
    prompt = len(thinker.processor(CONVERSATIONS[0], generate=True))
    room = 60 - prompt
    with pytest.raises(InputError, match=rf"max_new_tokens is 8000 .* wanted at most {room}: .* holds 60"):
        thinker.generate(CONVERSATIONS[0], max_new_tokens=8000)
    sample = ThinkerReasoner(thinker).sample(CONVERSATIONS[0], max_new_tokens=8000)
    assert len(sample.token_ids) == room or sample.stop_reason == "stop"
    longer: Messages = [{"role": "user", "content": "again " * 60}]
    with pytest.raises(InputError, match="wanted at most 0"):
        ThinkerReasoner(thinker).sample(longer, max_new_tokens=8)


def test_a_conversation_without_a_message_is_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="got a conversation without a message, wanted one at least"):
        ThinkerReasoner(Thinker.from_pretrained(saved)).sample([], max_new_tokens=4)
