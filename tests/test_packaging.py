"""The wheel holds the whole package and works away from the repository.

Built the way a user gets it: source distribution, then wheel from that. Proved: every file of the mapped folders is
inside (nested packages, weights, corpus, templates, type marker), tests and sources of the extension are not; each
module imports from the wheel alone, from another folder; the extension needs only torch's stable C interface; a machine
without a C++ compiler still gets a package, and is told. What the Makefile reads is in the source distribution, and
constraints.txt pins all that it installs.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from needs import needs_bubblewrap, needs_native
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools.command.egg_info import FileList

pytestmark = pytest.mark.timeout(600)  # a compiler on a busy machine
ROOT = Path(__file__).parents[1]
FOLDERS = {
    "src/foveate": "foveate",
    **{name: f"foveate/{name}" for name in ("agent", "benchmarks", "models", "rl", "tools")},
}
INPUTS = ("setup.py", "pyproject.toml", "MANIFEST.in", "Makefile", "constraints.txt", "README.md", "LICENSE", "csrc")
LICENCES = ("LICENSE", "rl/tasks/assets/OFL.txt", "rl/tasks/assets/MIT-fluent.txt", "tools/corpus/LICENSES.txt")
IGNORED = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
WHEEL_ALONE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
sys.path.insert(0, sys.argv[1])
"""
ASK = (
    WHEEL_ALONE
    + """
from foveate import cli
assert cli.__file__.startswith(sys.argv[1]), cli.__file__
sys.exit(cli.main(sys.argv[2:]))
"""
)
IMPORT_ALL = (
    WHEEL_ALONE
    + """
import importlib, pkgutil
import torch  # foveate._C is linked to its libraries
import foveate
names = ["foveate", *(m.name for m in pkgutil.walk_packages(foveate.__path__, "foveate.")) ]
for name in names:
    if name.rpartition(".")[2] == "__main__":
        continue
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] == "foveate":
            raise
        print("extra needed by", name, error.name)
        continue
    assert module.__file__.startswith(sys.argv[1]), module.__file__
from foveate import ops
print(len(names), ops.backend())
"""
)


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def copy_inputs(to: Path) -> Path:
    """The files that packaging reads, away from the repository and what was built there."""
    to.mkdir()
    for name in (*INPUTS, *FOLDERS):
        source, target = ROOT / name, to / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=IGNORED)
        else:
            shutil.copy(source, target)
    return to


def pip_wheel(source: Path, to: Path, env: dict[str, str] | None = None) -> tuple[Path, str]:
    """The wheel that pip builds from a folder, and what the build printed."""
    options = ["--verbose", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(to)]
    done = run(sys.executable, "-m", "pip", "wheel", *options, str(source), cwd=source, env=env)
    (wheel,) = to.glob("*.whl")
    return wheel, done.stdout + done.stderr


def needs_of(name: str, extra: str) -> list[str]:
    """What a distribution or an extra of it needs, ours by pyproject.toml; nothing of torch and of what is not here."""
    if name == "foveate":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return list(project["optional-dependencies"][extra] if extra else project["dependencies"])
    try:
        return [] if name == "torch" else requires(name) or []
    except PackageNotFoundError:
        return []


def closure(requirement: str) -> set[str]:
    """The canonical names of all distributions that a requirement brings."""
    todo, met = [Requirement(requirement)], set[tuple[str, str]]()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        for extra in {"", *wanted.extras} - {extra for other, extra in met if other == name}:
            met.add((name, extra))
            needs = map(Requirement, needs_of(name, extra))
            todo += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return {name for name, _ in met}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the source distribution, compiled in half the time: nobody waits for its kernels."""
    work = tmp_path_factory.mktemp("packaging")
    source = copy_inputs(work / "source")
    run(sys.executable, "-c", SDIST, str(work), cwd=source)
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    return pip_wheel(unpacked, work / "wheels", {**os.environ, "FOVEATE_CXXFLAGS": "-O1"})[0]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is unpacked into."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(target)]
    run(sys.executable, "-m", "pip", "install", *options, str(wheel), cwd=target)
    return target


def test_all_that_is_installed_is_pinned_but_torch() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    assert closure("foveate[dev]") - pinned - {"foveate", "torch"} == set(), "add a line to constraints.txt"


def test_what_the_makefile_and_the_tests_read_is_in_the_source_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    listed = FileList()
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        listed.process_template_line(line)
    files = set(listed.files)
    wanted = {".ci/run", "Makefile", "examples/demo.png", "configs/nano-pmd.yaml", "docs/rl.md", "tests/conftest.py"}
    assert wanted <= files
    assert [name for name in files if name.startswith("configs/") and name.endswith(".safetensors")] == []
    assert sum(Path(name).stat().st_size for name in files) < 48 << 20


def test_every_file_of_the_folders_is_in_the_wheel(wheel: Path) -> None:
    wanted = set()
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in {".pyc", ".so"}:
                wanted.add(f"{package}/{path.relative_to(ROOT / folder)}")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert sorted(wanted - held) == [], "missing: add the folder's __init__.py, or the ending to package-data"
    assert "foveate/py.typed" in held


@needs_native
def test_nothing_else_is_in_the_wheel(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    extension = [name for name in names if re.fullmatch(r"foveate/_C\..*\.so", name)]
    assert len(extension) == 1
    for name in names:
        head = name.partition("/")[0]
        assert head == "foveate" or head.endswith(".dist-info"), name
        assert not name.endswith((".cpp", ".h", ".pyc")), name
        assert not Path(name).name.startswith("test_"), name


def test_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert metadata["Name"] == "foveate"
    assert metadata["License-Expression"] == "Apache-2.0 AND OFL-1.1 AND MIT AND CC-BY-4.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "all",
        "data",
        "dev",
        "hub",
        "openai",
        "postgres",
        "ray",
        "train",
        "trl",
        "video",
    }
    assert "foveate = foveate.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
    assert {f"{info}/licenses/{name}" for name in LICENCES} <= set(archive.namelist())


@needs_native
def test_every_module_imports_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-c", IMPORT_ALL, str(installed), cwd=tmp_path)
    assert "native kernels" in done.stdout


@needs_bubblewrap
def test_a_question_is_answered_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    """With the weights in it, and code in the sandbox; `make check-wheel` does so in an empty environment."""
    shutil.copy(ROOT / "examples" / "demo.png", tmp_path / "picture.png")
    question = "Compare the numbers under the dog and the anchor. What is the larger one?"
    done = run(sys.executable, "-c", ASK, str(installed), "ask", "picture.png", question, "--json", cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert answer["status"] == "answered"
    assert {"zoom", "python"} <= {step["tool"] for step in answer["steps"] if not step["failed"]}


@needs_native
@pytest.mark.skipif(not shutil.which("nm"), reason="nm of binutils is not installed")
def test_the_extension_needs_only_the_stable_interface_of_torch(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        library = archive.extract(name, tmp_path)
    symbols = run("nm", "--dynamic", "--undefined-only", library, cwd=tmp_path).stdout
    assert "aoti_torch_library_def" in symbols
    assert re.findall(r"_Z\w*(?:2at|3c10|5torch)\w*", symbols) == []


@pytest.mark.parametrize("compiler", [None, "exit 1", "clang++-16", "clang++"])
def test_without_a_compiler_for_csrc_the_package_installs_and_says_so(compiler: str | None, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "CXX"}
    if compiler is None:
        env["PATH"] = str(tmp_path / "empty")
    elif compiler == "exit 1":
        env["CXX"] = str(tmp_path / "broken")
        (tmp_path / "broken").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "broken").chmod(0o755)
    elif shutil.which(compiler) and platform.machine() == "x86_64":
        env["CXX"] = compiler
    else:
        pytest.skip(f"{compiler} is not installed, or can build csrc/ on this processor")
    plain, printed = pip_wheel(copy_inputs(tmp_path / "source"), tmp_path, env)
    assert plain.name.endswith("-py3-none-any.whl")
    assert "no C++ compiler found that can build csrc/" in printed
    assert not any(name.endswith(".so") for name in zipfile.ZipFile(plain).namelist())
