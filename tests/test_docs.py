"""What the documentation shows runs, and what its commands name is there."""

import re
from pathlib import Path

import pytest
import typer
from needs import needs_bubblewrap
from typer.core import TyperGroup

from foveate.cli import app
from foveate.models.config import from_json
from foveate.rl.policy_config import PolicyConfig
from foveate.rl.stages import parts_of
from foveate.rl.train import split_config
from foveate.rl.yaml_values import read_yaml

ROOT = Path(__file__).parents[1]
POLICIES = ("pmd", "pmd-no-length", "grpo", "rloo")


def run_blocks(page: Path) -> int:
    """Run the Python blocks of a page one after the other; how many there are."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, page.name, "exec"), namespace)
    return len(blocks)


@needs_bubblewrap
def test_the_first_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert run_blocks(ROOT / "README.md") == 1
    said = capsys.readouterr().out
    assert said.startswith("think  The dog is")
    assert "tool (" in said
    assert "90 Usage(turns=" in said


@needs_bubblewrap
def test_the_page_on_the_agent_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert run_blocks(ROOT / "docs" / "agent.md") == 4
    said = capsys.readouterr().out
    assert said.startswith("answered 90 ")
    assert said.count("looked at (") >= 1
    assert said.endswith("90\n90\n")


def test_the_table_of_commands_has_their_options_and_no_others() -> None:
    told: dict[str, set[str]] = {}
    for row in re.findall(r"^\| (`foveate.*)", (ROOT / "docs" / "agent.md").read_text(), re.MULTILINE):
        commands, does = row.split(" | ", 1)
        for command in re.findall(r"`foveate ?(\w*)", commands):
            told.setdefault(command, set()).update(re.findall(r"`(--[\w-]+)", does))
    foveate = typer.main.get_command(app)
    assert isinstance(foveate, TyperGroup)
    for name, options in told.items():
        command = foveate.commands[name] if name else foveate
        opts = {opt for parameter in command.params for opt in parameter.opts if opt.startswith("--")}
        assert options == opts - {"--help"}, name
    assert set(told) == {"", *foveate.commands}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem
)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_is_one(path: Path) -> None:
    name = path.stem.removeprefix("nano-")
    values = read_yaml(path)
    if name in POLICIES:
        assert from_json(PolicyConfig, values).prompts > 1
        return
    _, stage = split_config(values)
    module, config, _ = parts_of("sft" if name in {"cold", "cold-first", "decoder", "imitate"} else name, stage)
    assert from_json(getattr(__import__(module, fromlist=["_"]), config), stage, "stage.")
