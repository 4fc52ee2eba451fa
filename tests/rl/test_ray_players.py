"""Actors of Ray play what one process plays, and ahead of the policy as far as the staleness allows.

Proved with a real local cluster and the tiny thinker: two actors give the rows of a process that plays by itself; with
a staleness the run ends with the same counts and says how old the weights were, never older than declared, also where
conversations wait; an actor that is lost ends the run with a line, what one raises is raised; a team is refused.
"""

import json
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from played import LONG, unsure

from foveate.cli import main
from foveate.errors import ConfigError, InputError, ModelError
from foveate.models import Thinker
from foveate.ops import compute_dtype
from foveate.rl.players import players
from foveate.rl.policy_config import PolicyConfig, RayConfig
from foveate.rl.ray_players import RayPlayers, cluster
from foveate.rl.sampler import SamplerConfig
from foveate.rl.team import ALONE, Team

pytestmark = [pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore::FutureWarning")]  # Ray's own


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    with cluster(num_cpus=2, object_store_memory=200_000_000):
        assert signal.getsignal(signal.SIGTERM) == before  # or a run that is told to stop would not save
        yield


@pytest.fixture
def run(thinker: Thinker, tmp_path: Path) -> Path:
    unsure(thinker).save_pretrained(tmp_path / "start")
    settings = {
        "start": str(tmp_path / "start"), "iterations": 3, "prompts": 4, "samples": 2, "at_once": 2, "updates": 1,
        **LONG, "sampler": {"families": ["label", "table"]}, "length": {"weight": 0.5, "warmup_iterations": 0},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def trained(run: Path, name: str, *overrides: str) -> list[dict[str, Any]]:
    changes = [part for override in overrides for part in ("--set", override)]
    assert main(["train", "pmd", "--config", str(run / "run.yaml"), "--out", str(run / name), *changes]) == 0
    return [json.loads(line) for line in (run / name / "metrics.jsonl").read_text().splitlines()]


def test_two_actors_play_what_one_process_plays(run: Path) -> None:
    own, far = trained(run, "own"), trained(run, "far", "ray.actors=2")
    assert [row["age"] for row in far] == [0, 0, 0]
    assert any(row["grad_norm"] for row in own)  # so what is played depends on what was learned
    for key in ("iteration", "accuracy", "policy_tokens", "tool_calls", "cut", "accuracy_label"):
        assert [row[key] for row in far] == [row[key] for row in own], key
    for key in ("reward", "kl", "grad_norm"):  # where few conversations end by themselves a row has no reward
        numbers = [[row.get(key, math.inf) for row in rows] for rows in (own, far)]
        assert numbers[1] == pytest.approx(numbers[0], rel=1e-3, abs=1e-6), key
    assert "reward" in own[0]


def test_playing_ahead_ends_with_the_same_counts(run: Path) -> None:
    rows = trained(run, "ahead", "ray.actors=1", "ray.staleness=1")
    assert [(row["iteration"], row["age"]) for row in rows] == [(1, 0), (2, 1), (3, 1)]


@pytest.mark.parametrize("staleness", [2])
def test_what_waits_is_no_older_than_was_declared(staleness: int, run: Path) -> None:
    rows = trained(run, "waits", "ray.actors=1", f"ray.staleness={staleness}", "partial=0.5", "iterations=4")
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert max(row["age"] for row in rows) == staleness


def test_features_are_those_of_the_tower(run: Path) -> None:
    thinker = Thinker.from_pretrained(run / "start", dtype=compute_dtype())
    config = PolicyConfig(
        start=str(run / "start"), iterations=1, prompts=1, samples=2, turns=2, policy_tokens=20,
        sampler=SamplerConfig(families=("label",)), ray=RayConfig(actors=1),
    )  # fmt: skip
    with players(config, thinker, ALONE) as far, players(replace(config, ray=RayConfig()), thinker, ALONE) as own:
        (sent, there, _), (kept, here, _) = far.play(0, {}), own.play(0, {})
    assert there is not None
    assert here is not None
    assert not any(len(image.patches_NP) for one in (*sent, *kept) for image in one.transcript.images)
    keys = {image.key for one in kept for image in one.transcript.images}
    assert keys == set(there.tokens)
    assert all(there.tokens[key].equal(here.tokens[key]) for key in keys)


def test_a_lost_actor_ends_the_run_in_a_line(thinker: Thinker, run: Path) -> None:
    config = PolicyConfig(start=str(run / "start"), iterations=1, ray=RayConfig(actors=1))
    with players(config, thinker, ALONE) as far:
        assert isinstance(far, RayPlayers)
        ray.kill(far.actors[0])
        with pytest.raises(ModelError, match="an actor of Ray is lost"):
            far.play(0, {})


def test_what_an_actor_raises_is_raised(thinker: Thinker) -> None:
    class Stumbling:
        def play(self, iteration: int, success: dict[str, float]) -> None:
            raise InputError(f"iteration {iteration} has no questions")

    config = PolicyConfig(start="", iterations=1, ray=RayConfig(actors=1))
    far = RayPlayers(ray=ray, actors=[ray.remote(Stumbling).remote()], config=config, thinker=thinker)
    with pytest.raises(InputError, match=r"^iteration 0 has no questions$"):
        far.play(0, {})


def test_gpus_that_the_cluster_has_not_are_told(thinker: Thinker) -> None:
    config = PolicyConfig(start="nano", iterations=1, device="cuda", ray=RayConfig(actors=2, gpus=8))
    there = ray.cluster_resources().get("GPU", 0.0)
    with (
        pytest.raises(ConfigError, match=f"2 actors want 8 GPUs each, and Ray has {there:g}; set ray.gpus"),
        players(config, thinker, ALONE),
    ):
        pass


def test_a_team_with_actors_is_refused(thinker: Thinker) -> None:
    config = PolicyConfig(start="", iterations=1, ray=RayConfig(actors=1))
    with pytest.raises(ConfigError, match="in a team of 2"), players(config, thinker, Team(0, 2)):
        pass
