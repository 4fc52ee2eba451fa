"""The whole loop runs with published checkpoints: a tool call in the family's own boxes, and an end to nonsense."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import kimi
import pytest
import qwen
from pictures import noise

from foveate.agent.agent import Agent
from foveate.agent.budget import Budget
from foveate.cli import main
from foveate.models import Thinker, ThinkerReasoner
from foveate.models.reasoner import Sample


class Prompted(ThinkerReasoner):
    """The thinker, who first says what it is told to."""

    def __init__(self, thinker: Thinker, first: str) -> None:
        super().__init__(thinker, name="prompted")
        self.first = first
        self.heard: Any = []

    def sample(self, messages: Any, **settings: Any) -> Sample:
        first, self.first, self.heard = self.first, "", messages
        if not first:
            return super().sample(messages, **settings)
        sample = super().sample(messages, **settings | {"max_new_tokens": 1})
        ids = self.thinker.processor.codec.encode_model_text(first)
        return dataclasses.replace(
            sample, text=first, token_ids=tuple(ids), logprobs=(0.0,) * len(ids), stop_reason="stop"
        )


@pytest.mark.parametrize(
    ("family", "box", "seen_px", "box_px"),
    [
        ("qwen2_vl", [200, 200, 600, 600], (336, 168), (224, 112, 672, 336)),
        ("qwen3_vl_moe", [200, 200, 600, 600], (320, 160), (224, 112, 672, 336)),
        ("kimi_vl", [0.2, 0.2, 0.6, 0.6], None, (224, 112, 672, 336)),
        ("qwen2_5_vl", [56, 28, 168, 84], (336, 168), (186, 93, 560, 280)),
        ("qwen3_vl", [200, 200, 600, 600], (320, 160), (224, 112, 672, 336)),
    ],
)
def test_a_call_zooms_where_the_family_means(
    family: str, box: list[float], seen_px: tuple[int, int] | None, box_px: tuple[int, ...], tmp_path: Path
) -> None:
    kimi.save(tmp_path) if family == "kimi_vl" else qwen.save(family, tmp_path)
    thinker = Thinker.from_pretrained(tmp_path)
    assert seen_px in (None, thinker.processor.seen_size(1120, 560))
    call = json.dumps({"name": "zoom", "arguments": {"image": 0, "box": box}})
    reasoner = Prompted(thinker, f"<tool_call>\n{call}\n</tool_call>")
    with Agent(reasoner, budget=Budget(turns=2, policy_tokens=300)) as agent:
        answer = agent.ask("What is written there?", [noise(1120, 560)])
    zoom = next(step for step in answer.steps if step.kind == "tool")
    assert zoom.box_px == box_px
    assert answer.usage.turns == 2


@pytest.mark.parametrize(("template", "opened"), [(qwen.TEMPLATE, ""), (qwen.THINKING, "<think>\n")])
def test_a_family_sees_its_own_block_of_tools(template: str, opened: str, tmp_path: Path) -> None:
    qwen.save("qwen3_vl", tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    thinker = Thinker.from_pretrained(tmp_path)
    said = 'I look.</think><tool_call>{"name": "zoom", "arguments": {"image": 0, "box": [0, 0, 500, 500]}}</tool_call>'
    reasoner = Prompted(thinker, said)
    with Agent(reasoner, budget=Budget(turns=2, policy_tokens=300), checkpoint=":memory:") as agent:
        answer = agent.ask("What is written there?", [noise(112, 56)], thread="t")
    assert any(step.kind == "tool" and not step.failed for step in answer.steps)
    transcript = thinker.processor(reasoner.heard, generate=True)
    prompt = thinker.processor.codec.tokenizer.decode(transcript.token_ids.tolist(), skip_special_tokens=False)
    assert ("You have tools:\n<tools>" in prompt) == bool(opened)
    assert ("# Tools" in prompt) == (not opened)
    assert prompt.count('{"type": "function", "function": {"name": "zoom"') == 1
    assert f"<|im_start|>assistant\n{opened}{said}<|im_end|>" in prompt
    assert prompt.endswith(f"<|im_start|>assistant\n{opened}")


@pytest.mark.parametrize("family", [*qwen.FAMILIES, "kimi_vl"])
def test_ask_takes_the_folder(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    if family == "kimi_vl":
        kimi.save(tmp_path / "model")
    else:
        qwen.save(family, tmp_path / "model")
    noise(300, 200).save(tmp_path / "picture.png")
    arguments = ["ask", str(tmp_path / "picture.png"), "What is this?", "--json", "--max-tokens", "40"]
    assert main([*arguments, "--model", str(tmp_path / "model")]) in (0, 1)
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] in ("answered", "out_of_budget")
    assert 0 < answer["usage"]["policy_tokens"] <= 40
