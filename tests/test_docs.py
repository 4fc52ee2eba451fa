"""What the documentation shows runs, and what its commands name is there."""

import re
from pathlib import Path

import pytest

from foveate.models.config import from_json
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.stages import parts_of
from foveate.rl.train import read_yaml, split_config

ROOT = Path(__file__).parents[1]
POLICIES = ("pmd", "pmd-no-length", "grpo", "rloo")


def test_the_page_on_the_agent_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "agent.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, "docs/agent.md", "exec"), namespace)
    said = capsys.readouterr().out
    assert said.startswith("answered 90 ")
    assert said.count("looked at (") >= 1
    assert said.endswith("90\n90\n")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_is_one(path: Path) -> None:
    name = path.stem.removeprefix("nano-")
    values = read_yaml(path)
    if name in POLICIES:
        assert from_json(PolicyConfig, values).prompts > 1
        return
    _, stage = split_config(values)
    module, config, _ = parts_of("sft" if name in {"cold", "decoder", "imitate"} else name, stage)
    assert from_json(getattr(__import__(module, fromlist=["_"]), config), stage, "stage.")
