"""Comparisons are interleaved, rotate their inputs, and compare what gives the same results."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.benchmarks import (
    NAMES,
    decoder_attention,
    experts,
    full_attention,
    gqa_decode,
    linear,
    measure,
    mla_decode,
    moe_decode,
    moe_prefill,
    nano_ask,
    pointwise,
    router,
    sizes,
    window_core,
    window_layer,
)
from foveate.benchmarks.measure import SETS, WITHOUT, Case, Floors, compare
from foveate.benchmarks.record import kept
from foveate.benchmarks.table import table
from foveate.benchmarks.windows import window_lengths
from foveate.cli import main
from foveate.cli.bench import print_list
from foveate.errors import ConfigError, ModelError

ROUNDED = {"moe_decode_int8": 0.02, "moe_decode_nf4": 0.25}
"""Operations whose weights are not the peers', and how far off that makes the result, as a share of it."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks at sizes that take no time."""
    for module in (window_core, window_layer, full_attention):
        monkeypatch.setattr(module, "SIDE", 10)
    monkeypatch.setattr(decoder_attention, "LENGTHS", [7, 5])
    for module in (gqa_decode, mla_decode):
        monkeypatch.setattr(module, "CONTEXT", 30)
        monkeypatch.setattr(module, "HELD", 30)
    monkeypatch.setattr(mla_decode, "LAYERS", 1)
    for name, value in {"TOKENS": 5, "WIDTH": 64, "HEAD_DIM": 16, "SIDE_PX": 56}.items():
        monkeypatch.setattr(pointwise, name, value)
    monkeypatch.setattr(linear, "WIDTH", 24)
    monkeypatch.setattr(linear, "MATRICES", 1)
    monkeypatch.setattr(linear, "TOKENS", (1, 20))
    for name, value in {"EXPERTS": 8, "TOP_K": 2, "WIDTH": 64, "INNER": 64}.items():
        monkeypatch.setattr(experts, name, value)
    monkeypatch.setattr(moe_prefill, "TOKENS", 10)
    monkeypatch.setattr(router, "LAYERS", 1)


def tensors(result: object) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)  # type: ignore[call-overload]


def all_cases() -> Iterator[Case]:
    for module in (
        window_core, window_layer, full_attention, decoder_attention, gqa_decode, mla_decode, moe_prefill, moe_decode,
        linear, pointwise, router,
    ):  # fmt: skip
        yield from module.cases()


@pytest.mark.usefixtures("small")
def test_peers_compute_the_same_and_nobody_builds_a_graph() -> None:
    """With one, linear layers would go to torch's own, and everybody would pay for autograd."""
    compared = 0
    for case in all_cases():
        tolerance = 0.03 if case.dtype == "bfloat16" else 1e-4
        for name, peer in case.peers.items():
            if name == "copy":
                continue
            for one, other in zip(tensors(case.ours(1)), tensors(peer(1)), strict=True):
                if case.op in ROUNDED:
                    assert (one - other).norm() < ROUNDED[case.op] * other.norm()
                else:
                    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
                assert not one.requires_grad
                assert not other.requires_grad
            compared += 1
    assert compared >= 15


@pytest.mark.usefixtures("small")
def test_a_copy_reads_and_writes_what_an_operation_does() -> None:
    for case in pointwise.cases():
        (copied,) = tensors(case.peers["copy"](0))
        assert 2 * copied.nbytes == case.moved


def test_everybody_runs_in_turn_with_the_same_inputs() -> None:
    ran: list[tuple[str, int]] = []
    case = Case(
        op="none", shape="", dtype="float32", ours=lambda n: ran.append(("ours", n)),
        peers={"peer": lambda n: ran.append(("peer", n))}, flops=1e9,
    )  # fmt: skip
    (row,) = compare(case, Floors(rates={"float32 on cpu": 1e12}), seconds=0)
    warm = [(name, number) for name in ("ours", "peer") for number in range(SETS)]
    assert ran == warm + [(name, number) for number in range(SETS) for name in ("ours", "peer")]
    assert row.rounds == SETS
    assert (row.op, row.peer, row.floor_ms) == ("none", "peer", 1.0)


def test_a_floor_is_the_slower_of_arithmetic_and_memory() -> None:
    floors = Floors(rates={"float32 on cpu": 1e12, "copy on cpu": 1e10})
    case = Case(op="", shape="", dtype="float32", ours=id, peers={}, flops=2e9, moved=1e8)
    assert floors.of(case) == pytest.approx(10.0)
    assert floors.of(Case(op="", shape="", dtype="float32", ours=id, peers={})) is None


@pytest.mark.usefixtures("small")
def test_sizes_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"SIDES": (4, 9, 10), "PROMPTS": (1, 6), "CONTEXTS": (16, 32), "TRAINED": (5, 9)}
    for name, value in small.items():
        monkeypatch.setattr(sizes, name, value)
    for module in (gqa_decode, mla_decode):
        monkeypatch.setattr(module, "HELD", 32)
    found: dict[str, list[int | None]] = {}
    for case in sizes.cases():
        case.ours(0)
        for peer in case.peers.values():
            peer(0)
        found.setdefault(case.op, []).append(case.size)
    assert found == {
        "window_core": [16, 81, 100], "window_layer": [16, 81, 100], "full_attention": [16, 81], "moe_prefill": [1, 6],
        "linear": [1, 6], "gqa_decode": [16, 32], "mla_decode": [16, 32], "decoder_attention": [5, 9],
    }  # fmt: skip


def test_windows_cover_a_picture() -> None:
    assert window_lengths(74) == [64] * 81 + [16] * 18 + [4]
    assert all(sum(window_lengths(side)) == side**2 for side in range(1, 40))


@pytest.mark.usefixtures("small")
def test_the_command_prints_a_row_for_each_comparison(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measure, "_product_flops", lambda dtype, device: 1e12)
    assert main(["bench", "decoder_attention", "--json", "--seconds", "0"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert set(row) == {
        "op",
        "shape",
        "dtype",
        "threads",
        "rounds",
        "ours_ms",
        "peer",
        "peer_ms",
        "ratio",
        "floor_ms",
        "device",
        "size",
    }
    assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"], rel=0.3)
    out = tmp_path / "result.json"
    assert main(["bench", "decoder_attention", "--seconds", "0", "--out", str(out)]) == 0
    assert "decoder_attention bfloat16" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert [row["op"] for row in result["rows"]] == ["decoder_attention"]
    assert table(result).startswith(f"On {result['hardware']}, torch {torch.__version__}, ")
    assert main(["bench", "decoder_attention", "--seconds", "0", "--out", str(tmp_path / "none" / "a.json")]) == 2
    assert "none/a.json (No such file or directory)" in capsys.readouterr().err


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nothing"]) == 2
    printed = capsys.readouterr()
    assert f"no measurement is named 'nothing'; there are {', '.join(NAMES)}" in printed.err
    assert not printed.out


def test_an_unknown_name_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    there, none = tmp_path / "there.json", tmp_path / "none.json"
    there.write_text("what was before")
    for path in (there, none):
        assert main(["bench", "linear", "nothing", "--out", str(path)]) == 2
    assert there.read_text() == "what was before"
    assert not none.exists()


def test_a_failure_before_the_first_row_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def failing() -> Iterator[dict[str, Any]]:
        raise ConfigError("there is no GPU")
        yield {}

    earlier, none = tmp_path / "earlier.json", tmp_path / "none.json"
    earlier.write_text("earlier")
    for path in (earlier, none):
        with pytest.raises(ConfigError):
            list(kept(failing(), path, "foveate bench gpu"))
    assert earlier.read_text() == "earlier"
    assert not none.exists()


def test_what_was_measured_before_a_failure_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> Iterator[Case]:
        yield Case(op="linear", shape="", dtype="float32", ours=str, peers={"one": str, "other": str})
        raise ModelError("nobody is there")

    monkeypatch.setattr(linear, "cases", failing)
    out = tmp_path / "result.json"
    assert main(["bench", "linear", "--json", "--seconds", "0", "--out", str(out)]) == 2
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [row["peer"] for row in rows] == ["one", "other"]
    assert json.loads(out.read_text())["rows"] == rows
    assert printed.err == "foveate: nobody is there\n"


def test_rows_are_one_list_and_each_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for rows in ([], [{"op": "linear"}], [{"op": "linear"}, {"op": "gqa_decode"}]):
        print_list(rows)
        out = capsys.readouterr().out
        assert json.loads(out) == rows
        assert len(out.splitlines()) == max(1, len(rows))


def test_nano_answers_the_same_in_plain_pytorch() -> None:
    case = next(nano_ask.cases())
    ours, theirs = case.ours(0), case.peers[WITHOUT](0)
    assert (ours.text, ours.status) == (theirs.text, "answered")
    assert ours.usage.tool_calls == theirs.usage.tool_calls > 0
