"""The doctor reports every part, and a part that raises is a finding like another.

What it says of this machine is not asserted, save that what the tests themselves run on is well.
"""

import json
import tomllib
from errno import EACCES
from pathlib import Path

import pytest

from foveate.cli import main
from foveate.doctor import EXTRAS, PROBES, Finding, examine, is_healthy, model_finding, report_lines
from foveate.errors import ConfigError
from foveate.models import nano_path
from foveate.tools.sandbox import probe_result


def test_every_part_is_reported_once_and_what_runs_this_test_is_well() -> None:
    findings = {finding.name: finding for finding in examine()}
    assert list(findings) == list(PROBES)
    assert all(findings[name].state == "ok" for name in ("foveate", "python", "torch", "nano", "search"))
    assert all(finding.fix for finding in findings.values() if finding.state != "ok")


@pytest.mark.parametrize("broken", ["model.safetensors", "tokenizer.json"])
def test_a_model_with_a_broken_file_is_found_out(tmp_path: Path, broken: str) -> None:
    for file in Path(nano_path()).iterdir():
        (tmp_path / file.name).symlink_to(file)
    whole = (tmp_path / broken).read_bytes()
    (tmp_path / broken).unlink()
    (tmp_path / broken).write_bytes(whole[: len(whole) // 2])
    finding = model_finding("nano", tmp_path)
    assert finding.state == "fail"
    assert finding.fix == "install Foveate again from the folder or wheel that you installed it from"


def test_bubblewrap_that_may_not_work_is_not_to_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bwrap").write_text("#!/bin/sh\necho bwrap: setting up uid map: Permission denied\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setattr("foveate.tools.sandbox.SEARCH_PATH", str(tmp_path))
    probe_result.forget()
    try:
        finding = PROBES["sandbox"]("sandbox")
    finally:
        probe_result.forget()
    assert (finding.state, finding.found[-17:]) == ("warn", "Permission denied")
    assert finding.fix.startswith("let bubblewrap make namespaces")


def test_the_extras_are_those_of_the_package() -> None:
    """But for data, which is for building what ships, and those that hold others."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"all", "data", "dev"}


def test_a_data_folder_that_may_not_be_looked_at_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: Path) -> bool:
        raise PermissionError(EACCES, "Permission denied")

    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(closed / "data"))
    monkeypatch.setattr(Path, "exists", refuses)  # as it does in a folder that may not be searched
    monkeypatch.setattr("os.access", lambda path, _: path != closed)
    finding = PROBES["data folder"]("data folder")
    assert (finding.state, finding.found) == ("warn", f"{closed / 'data' / 'foveate'} cannot be written")
    assert finding.fix == "make the folder writable, or use --data-dir"


def test_a_probe_that_raises_is_a_failed_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Finding:
        raise OSError("disk on fire")

    monkeypatch.setitem(PROBES, "torch", broken)
    findings = {finding.name: finding for finding in examine()}
    assert findings["torch"].state == "fail"
    assert "disk on fire" in findings["torch"].found
    assert not is_healthy(findings.values())


def test_an_error_of_ours_is_not_mended_by_installing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def misnamed(name: str) -> Finding:
        raise ConfigError("FOVEATE_ISA: the instruction set is named 'sse9'; wanted one of generic, avx2, avx512")

    monkeypatch.setitem(PROBES, "native kernels", misnamed)
    finding = next(finding for finding in examine() if finding.name == "native kernels")
    assert (finding.state, finding.fix) == ("fail", "change what the message names to what it wants")


def test_a_warning_is_no_failure_and_shows_its_fix() -> None:
    warning = Finding(name="sandbox", state="warn", found="none\x1b[2J", fix="install bubblewrap")
    assert is_healthy([warning])
    first, second = report_lines(warning)
    assert first == "warn  sandbox          none\ufffd[2J"
    assert second.strip() == "fix: install bubblewrap"


def test_json_is_one_object_and_the_exit_code_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"] is (code == 0)
    assert {"name", "state", "found", "fix"} == set(report["checks"][0])
