"""A name on the hub leads to the library's cache, to a download only when it must, and never where a folder is meant.

The real library reads a cache made by hand, offline; it reads its settings when it is imported, so in a process of its
own. What it would fetch of a repository is told by its own filter of names.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects
from pictures import noise

from foveate.errors import CheckpointError, ModelError
from foveate.models.checkpoint import nano_path
from foveate.models.load import known_model
from foveate.models.snapshot import checkpoint_folder, is_hub_name
from foveate.models.thinker import Thinker

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", True), ("acme/tiny@v1.0", True), ("acme/tiny@refs/pr/2", True),
        ("nano", False), ("acme/tiny/more", False), ("/acme/tiny", False), ("./tiny", False), ("../acme/tiny", False),
        ("~/tiny", False), ("acme/", False), ("acme/a b", False), ("mine/tiny", False), ("mine/model", False),
    ],
)  # fmt: skip
def test_names_of_the_hub(name: str, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slip in the name of a folder that lies in a folder of ours is none."""
    (tmp_path / "mine" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert is_hub_name(name) == wanted
    if not wanted:
        assert checkpoint_folder(name) == (nano_path() if name == "nano" else Path(name).expanduser())


def test_the_command_line_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [known_model(name) for name in ("acme/tiny", "acme/tiny@v1:int8")] == ["acme/tiny", "acme/tiny@v1:int8"]
    with pytest.raises(ModelError, match="OWNER/NAME of the hub"):
        known_model("acme/tiny/more")


@pytest.fixture
def hub(thinker: Thinker, tmp_path: Path) -> dict[str, str]:
    """The environment with a cache of one model, offline."""
    cached = tmp_path / "hub" / "models--acme--tiny"
    thinker.save_pretrained(cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    for name in ("main", "v1"):
        (cached / "refs" / name).write_text(COMMIT)
    noise(64, 64).save(tmp_path / "a.png")
    return os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


READ = """
import sys
from foveate import Agent
from foveate.errors import CheckpointError
from foveate.models import Thinker
for name in sys.argv[1:]:
    try:
        print(Thinker.from_pretrained(name).config.decoder.hidden_size, Agent(name + ":int8")._reasoner.name)
    except CheckpointError as error:
        print(error)
"""


def ran(hub: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=hub, cwd=folder)


def failure(name: str) -> str:
    return f"no folder is called {name}, and the model {name} of the hub cannot be read ("


def test_what_is_in_the_cache_is_read_and_the_rest_is_named(hub: dict[str, str], tmp_path: Path) -> None:
    there = ["acme/tiny", "acme/tiny@v1", f"acme/tiny@{COMMIT}"]
    missing = ["acme/large", "acme/tiny@v2", "acme/a--b"]
    lines = ran(hub, tmp_path, "-c", READ, *there, *missing).stdout.splitlines()
    assert lines[:3] == [f"48 {name}:int8" for name in there]
    assert [line[: len(failure(name))] for line, name in zip(lines[3:], missing, strict=True)] == list(
        map(failure, missing)
    )


def test_the_command_line_says_it_in_one_line(hub: dict[str, str], tmp_path: Path) -> None:
    run = ran(hub, tmp_path, "-m", "foveate", "ask", "a.png", "What?", "--model", "acme/large")
    (line,) = run.stderr.splitlines()
    assert (run.returncode, run.stdout) == (2, "")
    assert line.startswith(f"foveate: {failure('acme/large')}")
    assert line.endswith("check the name and the network, or give a folder that holds the checkpoint")


DATA = {
    "adapter_config.json", "chat_template.jinja", "config.json", "merges.txt", "model.safetensors", "tiktoken.model",
}  # fmt: skip
OTHERS = {"modeling_x.py", "pytorch_model.bin", "sub/x.json"}


def rounds_of(family: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Lets a folder stand for a repository of this family; what each call of the library fetches of it, in turn."""
    rounds: list[set[str]] = []

    def download(repo: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert (repo, revision) == ("acme/tiny", "v1")
        chosen = filter_repo_objects(
            sorted(DATA | OTHERS), allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        rounds.append(set(chosen))
        (folder / "config.json").write_text(json.dumps({"model_type": family}))
        return str(folder)

    monkeypatch.chdir(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return rounds


def test_of_a_repository_no_code_and_no_pickle_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = rounds_of("qwen3_vl", tmp_path, monkeypatch)
    assert checkpoint_folder("acme/tiny@v1") == tmp_path
    assert rounds == [{"config.json", "adapter_config.json"}, DATA]


def test_of_a_family_that_is_not_known_little_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = rounds_of("gpt2", tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="model_type 'gpt2' is not known"):
        checkpoint_folder("acme/tiny@v1")
    assert rounds == [{"config.json", "adapter_config.json"}]
