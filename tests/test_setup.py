"""What setup.py does with the CUDA compiler that it finds: an older one, a broken one, one off the PATH, none.

A shell script stands in for nvcc. That the real one compiles every kernel is proved in tests/ops/test_cuda_build.py.
"""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from needs import needs_native
from setuptools import Command, Distribution
from setuptools.errors import ExecError, PlatformError

ROOT = Path(__file__).parents[1]
OLD = "compute_80 compute_86 compute_89 compute_90"
"""What nvcc 12.4 lists."""


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """setup.py, without its call of setup()."""
    spec = spec_from_file_location("foveate_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of CUDA, which CUDA_HOME names and the PATH does not."""
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("FOVEATE_CUDA", raising=False)
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    return tmp_path / "cuda"


def install_nvcc(home: Path, lists: str, status: int = 0) -> Path:
    """A compiler that lists GPUs, and writes down what it is told to compile or fails."""
    nvcc = home / "bin" / "nvcc"
    listing = f"if [ $1 = --list-gpu-arch ]; then printf '%s\\n' {lists}; exit; fi"
    nvcc.write_text(f'#!/bin/sh\n{listing}\nprintf "%s\\n" "$@" >{home}/told\nexit {status}\n')
    nvcc.chmod(0o755)
    return nvcc


def command(build: ModuleType, out: Path, architectures: str | None = None) -> Command:
    """The command `build_cuda`, ready to run."""
    made: Command = build.BuildCuda(Distribution())
    made.out, made.architectures = str(out), architectures or made.architectures
    made.ensure_finalized()
    return made


@needs_native
def test_an_older_nvcc_compiles_for_the_gpus_that_it_knows(
    build: ModuleType, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nvcc = install_nvcc(home, OLD)
    command(build, home / "_cuda.so").run()
    told = (home / "told").read_text().splitlines()
    assert [option.partition("arch=")[2] for option in told if option.startswith("-gencode")] == [
        "compute_80,code=sm_80", "compute_90a,code=sm_90a", "compute_80,code=compute_80",
    ]  # fmt: skip
    assert told[told.index("-o") + 1] == str(home / "_cuda.so")
    assert capsys.readouterr().err == f"foveate: {nvcc} does not know sm_100a, sm_120: no code for these GPUs\n"


def test_a_new_nvcc_compiles_for_all_gpus(build: ModuleType, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nvcc = install_nvcc(home, f"{OLD} compute_100 compute_120")
    assert build.known_to(str(nvcc), build.ARCHITECTURES.split(",")) == ["80", "90a", "100a", "120"]
    assert capsys.readouterr().err == ""
    codes = [option.rpartition("code=")[2] for option in build.machine_codes(["80", "90a", "100a", "120"])]
    assert sorted(codes) == ["compute_120", "compute_80", "sm_100a", "sm_120", "sm_80", "sm_90a"]


def test_no_gpu_that_is_known_is_an_error(build: ModuleType, home: Path) -> None:
    install_nvcc(home, OLD)
    with pytest.raises(ExecError, match="knows none of the GPUs 100a, 120; it lists compute_80, compute_86"):
        command(build, home / "_cuda.so", "100a,120").run()


def test_without_nvcc_the_command_says_where_it_looked(
    build: ModuleType, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "CUDA", str(home / "nowhere"))
    assert build.find_nvcc() is None
    with pytest.raises(PlatformError, match=r"neither on the PATH nor in \$CUDA_HOME/bin .* set CUDA_HOME"):
        command(build, home / "_cuda.so").run()
    nvcc = install_nvcc(home, OLD)
    assert build.find_nvcc() == str(nvcc)
    monkeypatch.delenv("CUDA_HOME")
    assert build.find_nvcc() is None
    monkeypatch.setattr(build, "CUDA", str(home))
    assert build.find_nvcc() == str(nvcc)


def test_a_compiler_of_newer_cuda_than_torchs_is_not_asked(
    build: ModuleType, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    for version, wanted in (("13.2", True), ("14.0", True), ("12.6", False), (None, False)):
        monkeypatch.setattr(torch.version, "cuda", version)
        assert build.wants_cuda() is wanted
    assert capsys.readouterr().err == (
        f"foveate: {nvcc} is of CUDA 13 and torch of 12.6: installed without its kernels for GPUs; "
        "name another in CUDA_HOME (FOVEATE_CUDA=1 insists)\n"
    )
    for said, wanted in (("1", True), ("0", False)):
        monkeypatch.setenv("FOVEATE_CUDA", said)
        monkeypatch.setattr(torch.version, "cuda", "12.6")
        assert build.wants_cuda() is wanted
    assert capsys.readouterr().err == ""


@needs_native
def test_an_install_goes_on_when_nvcc_fails_unless_told_to_insist(
    build: ModuleType, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc, old = install_nvcc(home, "compute_80 compute_90 compute_100 compute_120", status=2), home / "_cuda.so"
    old.write_text("of other sources")
    build.build_or_say(command(build, old))
    said = (
        f"foveate: {nvcc} failed with exit status 2; installed without its kernels for GPUs (FOVEATE_CUDA=1 insists)\n"
    )
    assert capsys.readouterr().err == said
    assert not old.exists()
    monkeypatch.setenv("FOVEATE_CUDA", "1")
    with pytest.raises(ExecError, match="failed with exit status 2"):
        build.build_or_say(command(build, old))


@needs_native
def test_a_compiler_without_pythons_headers_cannot_compile(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build.can_compile(["c++"])
    monkeypatch.setattr(build.sysconfig, "get_path", lambda _: str(tmp_path))
    assert not build.can_compile(["c++"])


def test_kernels_that_were_asked_for_need_a_compiler(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_compiler", lambda: False)
    monkeypatch.setenv("FOVEATE_CUDA", "1")
    with pytest.raises(PlatformError, match="FOVEATE_CUDA=1 asks for kernels"):
        build.native_options()
    monkeypatch.setenv("FOVEATE_CUDA", "0")
    assert list(build.native_options()) == ["cmdclass"]


@needs_native
def test_kernels_of_an_earlier_build_go_when_none_are_wanted(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOVEATE_CUDA", "0")
    building = build.native_options()["cmdclass"]["build_ext"](Distribution())
    building.build_lib, building.extensions = str(tmp_path), []
    (tmp_path / "foveate").mkdir()
    (tmp_path / "foveate" / "_cuda.so").touch()
    building.run()
    assert not (tmp_path / "foveate" / "_cuda.so").exists()
