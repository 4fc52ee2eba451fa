"""Build of foveate: maps the top-level folders into one package and compiles csrc/ into `foveate._C`.

The extension uses torch's stable C interface, so a build made with any torch from 2.10 on works with all of them.
Without a C++ compiler that knows what csrc/ is written in (g++ 12 does, clang on x86-64 does not) the package installs
without it and says so: `foveate.ops` then runs plain PyTorch. One that knows it but fails is an error. The kernels for
GPUs are a shared object of their own, `foveate/_cuda.so`: nvcc alone makes it (`python setup.py build_cuda`), with any
torch and without a GPU; an install makes it where nvcc is found and torch is a build for a CUDA as new.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Extension, find_packages, setup
from setuptools.errors import ExecError, PlatformError

FOLDERS = {
    "src/foveate": "foveate",
    **{name: f"foveate.{name}" for name in ("agent", "benchmarks", "models", "rl", "tools")},
}
TARGET_TORCH = "0x020a000000000000"  # 2.10: the oldest torch whose stable interface has all that csrc/ needs
ARCHITECTURES = "80,90a,100a,120"
"""Of GPUs, as in sm_90a; older compilers know the first ones alone."""
CUDA = "/usr/local/cuda"
"""Where CUDA is installed unless CUDA_HOME says otherwise."""
NO_NVCC = (
    f"nvcc is neither on the PATH nor in $CUDA_HOME/bin or {CUDA}/bin; "
    "install CUDA's compiler, or set CUDA_HOME to the folder that has bin/nvcc"
)
NO_COMPILER = """
foveate: no C++ compiler found that can build csrc/ (asked: {asked}). The package is installed without its native
kernels; plain PyTorch is used instead and `foveate doctor` says so. To get them: install g++ 12 or newer and install
foveate again. Python's headers are needed, too (Debian and Ubuntu: python3-dev).
"""
PROBE = """
#include <Python.h>
typedef float Vec __attribute__((vector_size(32)));
Vec turned(Vec x) { return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6); }
#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,fma")
Vec fused(Vec x) { return _mm256_fmadd_ps(x, x, x); }
#pragma GCC pop_options
#endif
"""
"""What not every compiler knows, vectors of GCC and functions for a processor of their own, and what not every Python
comes with."""


def packages() -> list[str]:
    """Every package that a wheel must hold, nested ones included."""
    nested = [f"{target}.{inner}" for folder, target in FOLDERS.items() for inner in find_packages(folder)]
    return [*FOLDERS.values(), *nested]


def find_compiler() -> bool:
    """Whether there is a C++ compiler for csrc/; one that torch would not call by itself is in $CXX from here on."""
    asked = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    found = next((name for name in asked if can_compile(name.split())), None)
    if found is None:
        print(NO_COMPILER.format(asked=", ".join(asked)), file=sys.stderr)
    elif found != "c++":
        os.environ["CXX"] = found
    return found is not None


def can_compile(command: list[str]) -> bool:
    """Whether a compiler is there and makes machine code of the probe."""
    if not shutil.which(command[0]):
        return False
    headers = f"-I{sysconfig.get_path('include')}"
    compiling = [*command, headers, "-std=c++20", "-w", "-x", "c++", "-c", "-", "-o", os.devnull]
    return not subprocess.run(compiling, input=PROBE, text=True, capture_output=True, check=False).returncode


def extension() -> Extension:
    """`foveate._C`: every file of csrc/, for the instruction set that each x86-64 processor has."""
    import pybind11
    from torch.utils import cpp_extension

    sources = sorted(str(path) for path in Path("csrc").glob("**/*.cpp"))
    headers = sorted(str(path) for path in Path("csrc").glob("**/*.[hi]*"))
    system_includes = [f"-isystem{path}" for path in (pybind11.get_include(), *cpp_extension.include_paths())]
    wanted = os.environ.get("FOVEATE_SANITIZE", "")  # as gcc names them; `make sanitize`
    sanitizers = [f"-fsanitize={wanted}", "-fno-sanitize-recover=all", "-O1", "-g1"] if wanted else []
    return Extension(
        "foveate._C",
        sources=sources,
        depends=headers,
        define_macros=[("TORCH_TARGET_VERSION", TARGET_TORCH)],
        extra_compile_args=[
            "-O3",
            "-g0",
            "-std=c++20",
            "-fvisibility=hidden",
            "-fno-strict-aliasing",  # rows of bf16 are read as pairs, words of 32 bits
            "-Wall",
            "-Wextra",
            "-Wno-psabi",
            *system_includes,
            *sanitizers,
            *os.environ.get("FOVEATE_CXXFLAGS", "").split(),  # to debug, or for a build that need not be fast
        ],
        library_dirs=cpp_extension.library_paths(),
        libraries=["torch_cpu"],
        # A C++ library that a compiler links in statically stays inside: torch's, in the same process, is another one.
        extra_link_args=sanitizers or (["-s", "-Wl,--exclude-libs,ALL"] if sys.platform == "linux" else []),
        language="c++",
    )


class BuildCuda(Command):
    """Compile csrc/cuda into one shared object."""

    description = "compile the kernels for GPUs with nvcc"
    user_options: ClassVar = [
        ("out=", "o", "the shared object to write (default: src/foveate/_cuda.so)"),
        ("architectures=", "a", f"which GPUs, as in sm_90a without sm_ (default: {ARCHITECTURES})"),
    ]

    def initialize_options(self) -> None:
        """All GPUs, into the source tree."""
        self.out, self.architectures = "src/foveate/_cuda.so", ARCHITECTURES

    def finalize_options(self) -> None:
        """Split the list of GPUs."""
        self.targets = self.architectures.split(",")

    def run(self) -> None:
        """One call of nvcc for everything. Raises PlatformError without nvcc, ExecError when it fails."""
        from torch.utils import cpp_extension

        nvcc = find_nvcc()
        if nvcc is None:
            raise PlatformError(NO_NVCC)
        includes = [f"-isystem={path}" for path in cpp_extension.include_paths()]
        sources = sorted(Path("csrc/cuda").resolve().glob("*.cu"))
        options = ["-shared", "-std=c++20", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden"]
        options += ["--threads=0", "--no-device-link"]  # a thread for each GPU; no file calls another's code
        options += [f"-DTORCH_TARGET_VERSION={TARGET_TORCH}", *machine_codes(known_to(nvcc, self.targets))]
        Path(self.out).unlink(missing_ok=True)  # of other sources
        with tempfile.TemporaryDirectory() as folder:
            # One file for all: torch's headers, which take longer than the kernels, are read once for each GPU.
            unit = Path(folder, "kernels.cu")
            unit.write_text("".join(f'#include "{source}"\n' for source in sources))
            needs = [stand_in(name, folder) for name in ("libtorch_cpu.so", "libtorch_cuda.so")]
            links = f"-Xlinker={','.join(['--no-as-needed', *needs])}"
            call([nvcc, *options, *includes, str(unit), "-o", self.out, links])


def find_nvcc() -> str | None:
    """CUDA's compiler on the PATH, or else where CUDA is installed."""
    homes = filter(None, (os.environ.get("CUDA_HOME"), CUDA))
    folders = [os.environ.get("PATH", os.defpath), *(f"{home}/bin" for home in homes)]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def known_to(nvcc: str, wanted: list[str]) -> list[str]:
    """Those GPUs that a compiler knows; says which are left out. Raises ExecError where none is left.

    The compiler lists `compute_90` for 90 and 90a.
    """
    listed = call([nvcc, "--list-gpu-arch"]).split()
    known = [target for target in wanted if f"compute_{target.rstrip('af')}" in listed]
    if not known:
        raise ExecError(f"{nvcc} knows none of the GPUs {', '.join(wanted)}; it lists {', '.join(listed)}")
    if known != wanted:
        left_out = ", ".join(f"sm_{target}" for target in wanted if target not in known)
        print(f"foveate: {nvcc} does not know {left_out}: no code for these GPUs", file=sys.stderr)
    return known


def machine_codes(targets: list[str]) -> list[str]:
    """The options for code of each GPU, and for what a driver can turn into that of others, of the first and last.

    Of 90a and the like, whose code runs nowhere else, nothing is kept for others.
    """
    portable = [target for target in targets if target.isdigit()]
    codes = [(target, f"sm_{target}") for target in targets]
    codes += [(target, f"compute_{target}") for target in sorted({*portable[:1], *portable[-1:]})]
    return [f"-gencode=arch=compute_{target},code={code}" for target, code in codes]


def stand_in(name: str, folder: str) -> str:
    """An empty library of a name: what is linked with it finds torch's own when it is loaded."""
    path = str(Path(folder, name))
    call(["g++", "-shared", f"-Wl,-soname={name}", "-o", path, "-x", "c++", "/dev/null"])
    return path


def call(command: list[str]) -> str:
    """What a program prints; its complaints go where ours go. Raises ExecError, one line, when it fails."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    except OSError as error:
        raise ExecError(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        raise ExecError(f"{command[0]} failed with exit status {error.returncode}") from error


def wants_cuda() -> bool:
    """Whether an install compiles the kernels for GPUs: FOVEATE_CUDA=1 and 0 decide, else nvcc and torch."""
    import torch

    said, nvcc = os.environ.get("FOVEATE_CUDA", ""), find_nvcc()
    if said or nvcc is None or torch.version.cuda is None:
        return said == "1"
    return not of_newer_cuda(nvcc, torch.version.cuda)


def of_newer_cuda(nvcc: str, version: str) -> bool:
    """Whether a compiler's CUDA is newer by a whole number than torch's, which is then said.

    nvcc links its own runtime, which a driver that is good enough for torch's may refuse.
    """
    try:
        found = re.search(r"release (\d+)\.", call([nvcc, "--version"]))
    except ExecError:
        return False  # what is wrong with it is said when it is asked to compile
    newer = found is not None and int(found[1]) > int(version.partition(".")[0])
    if newer:
        print(
            f"foveate: {nvcc} is of CUDA {found[1]} and torch of {version}: installed without its kernels for GPUs; "
            "name another in CUDA_HOME (FOVEATE_CUDA=1 insists)",
            file=sys.stderr,
        )
    return newer


def build_or_say(cuda: Command) -> None:
    """Build the kernels for GPUs; unless they were asked for, a failure is one line and the install goes on."""
    try:
        cuda.run()
    except (ExecError, PlatformError) as error:
        if os.environ.get("FOVEATE_CUDA") == "1":
            raise
        print(f"foveate: {error}; installed without its kernels for GPUs (FOVEATE_CUDA=1 insists)", file=sys.stderr)


def is_of_other_sources(library: Path) -> bool:
    """Whether a build of csrc/cuda is older than what it was made of."""
    newest = max(path.stat().st_mtime for path in Path("csrc").rglob("*") if path.is_file())
    return library.exists() and library.stat().st_mtime < newest


def native_options() -> dict[str, object]:
    """The arguments of setup() that build the extension, or none with a word to the user."""
    if not find_compiler():
        if os.environ.get("FOVEATE_CUDA") == "1":
            raise PlatformError("FOVEATE_CUDA=1 asks for kernels, which need a C++ compiler and Python's headers, too")
        return {"cmdclass": {"build_cuda": BuildCuda}}
    from torch.utils.cpp_extension import BuildExtension

    class BuildAll(BuildExtension):
        """The extension, and beside it the kernels for GPUs."""

        def run(self) -> None:
            super().run()
            folder = Path("src/foveate") if self.inplace else Path(self.build_lib, "foveate")
            if wants_cuda():
                cuda = self.reinitialize_command("build_cuda", out=str(folder / "_cuda.so"))
                cuda.ensure_finalized()
                build_or_say(cuda)
            elif os.environ.get("FOVEATE_CUDA") == "0" or is_of_other_sources(folder / "_cuda.so"):
                (folder / "_cuda.so").unlink(missing_ok=True)

    return {"ext_modules": [extension()], "cmdclass": {"build_ext": BuildAll, "build_cuda": BuildCuda}}


if __name__ == "__main__":
    setup(
        packages=packages(),
        package_dir={target: folder for folder, target in FOLDERS.items()},
        **native_options(),
    )
