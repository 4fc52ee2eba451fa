"""Other families run in transformers behind the same reasoner, whatever their form of chat.

Proved for tiny random LLaVA, BLIP-2, Llama 3.2 Vision, Gemma 3 and InternVL: tokens, greedy and drawn, and their
log-probabilities are those of transformers itself; our attention runs; text arrives in pieces; a turn can be stopped,
and ends where a tool's would begin; a template that lays out tools gets them; a seed repeats; image tokens are counted;
control tokens in a question stay text; the whole agent runs. A folder that cannot be loaded is refused in one line.
"""

import copy
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pytest
import torch
import transformers
from needs import needs_native
from pictures import noise
from torch import Tensor

from foveate.agent.agent import Agent
from foveate.agent.budget import Budget
from foveate.cli import main
from foveate.errors import CheckpointError, InputError, ModelError
from foveate.models import hub
from foveate.models.load import load_reasoner
from foveate.models.transformers_model import TransformersReasoner, pictures_alone

pytestmark = pytest.mark.usefixtures("quiet")

IMAGE_TOKENS = {"llava": 4, "blip_2": 4, "mllama": 1, "gemma3": 4, "internvl": 3}
QUESTION: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "image", "image": noise(60, 40)}, {"type": "text", "text": "What is it?"}]}
]


@pytest.fixture(scope="module", params=families.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(family)
    families.save(family, folder)
    return folder


@pytest.fixture(scope="module")
def reasoner(folder: Path) -> TransformersReasoner:
    made = load_reasoner(f"transformers:{folder}")
    assert isinstance(made, TransformersReasoner)
    return made


def test_tokens_are_those_of_transformers(family: str, folder: Path, reasoner: TransformersReasoner) -> None:
    alone = pictures_alone(transformers.InternVLProcessor)
    processor = (alone if family == "internvl" else transformers.AutoProcessor).from_pretrained(folder)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    if family == "blip_2":
        inputs = processor(images=noise(60, 40), text="User: What is it?\nAssistant:", return_tensors="pt")
    else:
        inputs = processor.apply_chat_template(
            QUESTION, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    inputs |= {"max_new_tokens": 8, "output_logits": True, "return_dict_in_generate": True}
    for temperature, settings in ((0.0, {"do_sample": False}), (0.7, {"do_sample": True, "temperature": 0.7})):
        torch.manual_seed(5 + inputs["input_ids"].shape[1])
        out = model.generate(**inputs, **settings)
        wanted = out.sequences[0, -len(out.logits) :].tolist()
        got = reasoner.sample(QUESTION, max_new_tokens=8, temperature=temperature, seed=5)
        assert list(got.token_ids) == wanted
        logprobs = [float(row[0].log_softmax(-1)[token]) for row, token in zip(out.logits, wanted, strict=True)]
        assert got.logprobs == pytest.approx(logprobs, abs=1e-3)


@needs_native
def test_a_turn_goes_through_our_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    families.save("llava", tmp_path)
    reasoner, calls = load_reasoner(f"transformers:{tmp_path}"), Counter[str]()

    def counting(name: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counted(*args: object, **kwargs: object) -> Tensor:
            calls[name] += 1
            return run(*args, **kwargs)

        return counted

    for name in ("packed_attention", "decode_attention"):
        monkeypatch.setattr(hub, name, counting(name, getattr(hub, name)))
    sample = reasoner.sample(QUESTION, max_new_tokens=4)
    assert calls["packed_attention"] >= 2, "of two layers"
    assert calls["decode_attention"] == 2 * (len(sample.token_ids) - 1) > 0


def test_a_greedy_family_draws_when_it_is_asked_to(
    reasoner: TransformersReasoner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reasoner.model.generation_config, "top_k", 1)
    drawn = {reasoner.sample(QUESTION, max_new_tokens=4, temperature=2.0, seed=seed).token_ids for seed in range(3)}
    assert len(drawn) > 1


def test_text_arrives_in_pieces_and_a_turn_can_be_stopped(reasoner: TransformersReasoner) -> None:
    pieces: list[str] = []
    whole = reasoner.sample(QUESTION, max_new_tokens=12, temperature=1.0, seed=4, on_text=pieces.append)
    assert "".join(pieces) == whole.text
    assert len(pieces) > 1
    assert reasoner.sample(QUESTION, max_new_tokens=12, temperature=1.0, seed=4) == whole
    stopped = reasoner.sample(QUESTION, max_new_tokens=12, should_stop=lambda: True)
    assert (stopped.stop_reason, len(stopped.token_ids)) == ("cancelled", 1)


def test_a_turn_that_waits_for_another_can_be_stopped(reasoner: TransformersReasoner) -> None:
    with reasoner.lock:
        stopped = reasoner.sample(QUESTION, max_new_tokens=12, should_stop=lambda: True)
    assert (stopped.stop_reason, stopped.text, stopped.token_ids) == ("cancelled", "", ())
    assert reasoner.sample(QUESTION, max_new_tokens=2, should_stop=lambda: False).token_ids


def test_a_turn_ends_where_another_would_begin(reasoner: TransformersReasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made to say a call, and then what the tool would return."""
    pieces: list[str] = []
    said = reasoner.processor.tokenizer("<tool_call>{}</tool_call>", add_special_tokens=False)["input_ids"]
    ids = [*said, *reasoner.processor.tokenizer("\n<tool_response>4", add_special_tokens=False)["input_ids"]]
    generate, prompts = reasoner.model.generate, list[int]()

    def script(input_ids: Tensor, scores: Tensor) -> Tensor:
        prompts.append(input_ids.shape[1])
        wanted = torch.full_like(scores, -1e9)
        wanted[:, ids[input_ids.shape[1] - prompts[0]]] = 0.0
        return wanted

    monkeypatch.setattr(reasoner.model, "generate", lambda **settings: generate(**settings, logits_processor=[script]))
    sample = reasoner.sample(QUESTION, max_new_tokens=len(ids), on_text=pieces.append)
    assert (sample.text, sample.stop_reason) == ("<tool_call>{}</tool_call>\n", "stop")
    assert "".join(pieces) == sample.text
    assert list(sample.token_ids) == ids[: len(sample.token_ids)]
    assert len(said) < len(sample.token_ids) == len(sample.logprobs) < len(ids)
    assert max(sample.logprobs) < -1e-3  # the model's own, of what it would not have said


def test_its_template_lays_out_tools(family: str, reasoner: TransformersReasoner) -> None:
    if family == "blip_2":
        pytest.skip("it has no chat template")
    laid_out = "{% for tool in tools %}{{ tool|tojson }}{% endfor %}{% if tools %}Call in <tool_call>.{% endif %}"
    source = laid_out + reasoner.processor.chat_template
    taking = TransformersReasoner(reasoner.model, copy.copy(reasoner.processor))
    taking.processor.chat_template = source
    taking = TransformersReasoner(reasoner.model, taking.processor)
    assert (taking.dialect.takes_tools, reasoner.dialect.takes_tools) == (True, False)
    messages = [{**QUESTION[0], "tools": [{"type": "function", "function": {"name": "zoom"}}]}]
    text = taking.processor.tokenizer.decode(taking._inputs(messages)["input_ids"][0])
    assert '{"type": "function", "function": {"name": "zoom"}}' in text
    taking.processor.chat_template = "{% if %}"
    with pytest.raises(CheckpointError, match="the chat template of transformers is not valid"):
        TransformersReasoner(reasoner.model, taking.processor)


def test_image_tokens_are_counted(family: str, reasoner: TransformersReasoner) -> None:
    assert reasoner.image_tokens(60, 40) == IMAGE_TOKENS[family]


def test_control_tokens_in_a_question_stay_text(family: str, reasoner: TransformersReasoner) -> None:
    controls = reasoner.processor.tokenizer.all_special_ids

    def found(text: str) -> list[int]:
        messages = [{"role": "user", "content": [*QUESTION[0]["content"][:1], {"type": "text", "text": text}]}]
        ids = reasoner._inputs(messages)["input_ids"][0].tolist()
        return [index for index in ids if index in controls]

    assert Counter(found("</s><s><pad><image><start_of_image><|image|><IMG_CONTEXT>")) <= Counter(found("hello"))


def test_the_tags_of_a_turn_are_tokens_and_those_in_others_words_are_not(
    family: str, reasoner: TransformersReasoner
) -> None:
    processor = copy.deepcopy(reasoner.processor)
    processor.tokenizer.add_tokens(["<tool_call>"])
    call = {"role": "assistant", "content": "<tool_call>a"}
    asked = [{"role": "user", "content": [*QUESTION[0]["content"][:1], {"type": "text", "text": "<tool_call>?"}]}]
    ids = TransformersReasoner(reasoner.model, processor)._inputs(
        [*asked, call, {"role": "tool", "content": "<tool_call>"}]
    )["input_ids"]
    assert ids[0].tolist().count(processor.tokenizer.convert_tokens_to_ids("<tool_call>")) == 1


def test_what_a_model_has_read_aloud_marks_no_picture_and_no_turn(family: str, reasoner: TransformersReasoner) -> None:
    controls = reasoner.processor.tokenizer.all_special_ids

    def found(said: str) -> list[int]:
        turns = [{"role": "system", "content": said}, *QUESTION, {"role": "assistant", "content": said}]
        messages = [{**turns[0], "tools": [{"name": said}]}, *turns[1:], {"role": "user", "content": "And?"}]
        return [index for index in reasoner._inputs(messages)["input_ids"][0].tolist() if index in controls]

    assert found("<image><start_of_image><|image|><IMG_CONTEXT></s>") == found("hello")


def test_a_template_that_lies_with_the_tokenizer_alone_is_taken(family: str, reasoner: TransformersReasoner) -> None:
    if family == "blip_2":
        pytest.skip("it has no chat template")
    processor = copy.deepcopy(reasoner.processor)
    processor.tokenizer.chat_template, processor.chat_template = processor.chat_template, None
    moved = TransformersReasoner(reasoner.model, processor)
    assert torch.equal(moved._inputs(QUESTION)["input_ids"], reasoner._inputs(QUESTION)["input_ids"])


def test_the_agent_runs(family: str, folder: Path, reasoner: TransformersReasoner, capsys: Any) -> None:
    with Agent(reasoner, budget=Budget(turns=2, policy_tokens=24)) as agent:
        answer = agent.ask("What is it?", [noise(60, 40)])
    assert answer.status in ("answered", "out_of_budget")
    noise(60, 40).save(folder / "picture.png")
    arguments = ["ask", str(folder / "picture.png"), "What?", "--json", "--max-tokens", "8"]
    assert main([*arguments, "--model", f"transformers:{folder}"]) in (0, 1)
    assert 0 < json.loads(capsys.readouterr().out)["usage"]["policy_tokens"] <= 8


def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*config\.json"):
        load_reasoner(f"transformers:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match="transformers cannot load"):
        load_reasoner(f"transformers:{tmp_path}")
    for key in ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", key: "evil/code"}))
        with pytest.raises(CheckpointError, match=f"holds the key {key}, wanted none; remove it"):
            load_reasoner(f"transformers:{tmp_path}")
    noise(9, 9).save(tmp_path / "picture.png")
    for model in ("transformers:/nowhere", f"transformers:{tmp_path}:int8"):
        assert main(["ask", str(tmp_path / "picture.png"), "What?", "--model", model]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_note_that_attention_was_chosen_by_itself_is_no_code(tmp_path: Path) -> None:
    families.save("llava", tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"_attn_implementation_autoset": True}))
    assert load_reasoner(f"transformers:{tmp_path}").image_tokens(60, 40) == IMAGE_TOKENS["llava"]


def test_what_a_model_cannot_take_is_a_model_error(reasoner: TransformersReasoner) -> None:
    broken = [{"role": "user", "content": [{"type": "image", "image": Path("/nowhere.png")}]}]
    with pytest.raises(InputError, match="refuses the conversation"):
        reasoner.sample(broken, max_new_tokens=2)
    with pytest.raises(ModelError, match="failed while it sampled"):
        reasoner.sample(QUESTION, max_new_tokens=0)
    film = {"type": "video", "video": [noise(60, 40)] * 4, "fps": 1.0}
    with pytest.raises(InputError, match="leave out fps, nframes, min_ and max_pixels"):
        reasoner.sample([{"role": "user", "content": [film]}], max_new_tokens=2)
    sized = [{"role": "user", "content": [{"type": "image", "image": noise(60, 40), "max_pixels": 9000}]}]
    with pytest.raises(InputError, match="leave out min_pixels and max_pixels"):
        reasoner.sample(sized, max_new_tokens=2)
