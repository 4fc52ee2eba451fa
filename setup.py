"""Build of foveate: maps the top-level folders into one package and compiles csrc/ into `foveate._C`.

The extension uses torch's stable C interface, so a build made with any torch from 2.10 on works with all of them.
Without a C++ compiler the package installs without it and says so: `foveate.ops` then runs plain PyTorch. A compiler
that is there but fails is an error.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

FOLDERS = {
    "src/foveate": "foveate",
    **{name: f"foveate.{name}" for name in ("agent", "benchmarks", "models", "rl", "tools")},
}
TARGET_TORCH = "0x020a000000000000"  # 2.10: the oldest torch whose stable interface has all that csrc/ needs
NO_COMPILER = """
foveate: no C++ compiler found ($CXX, c++, g++, clang++). The package is installed without its native kernels; plain
PyTorch is used instead and `foveate doctor` says so. To get them: install g++ 11 or newer and install foveate again.
"""


def packages() -> list[str]:
    """Every package that a wheel must hold, nested ones included."""
    homes = {"src/foveate": "foveate", **FOLDERS}
    nested = [f"{target}.{inner}" for folder, target in homes.items() for inner in find_packages(folder)]
    return [*FOLDERS.values(), *nested]


def has_compiler() -> bool:
    """Whether a C++ compiler can be called."""
    named = os.environ.get("CXX", "").split()
    return any(shutil.which(name) for name in [*named[:1], "c++", "g++", "clang++"])


def extension() -> Extension:
    """`foveate._C`: every file of csrc/, for the instruction set that each x86-64 processor has."""
    import pybind11
    from torch.utils import cpp_extension

    sources = sorted(str(path) for path in Path("csrc").glob("**/*.cpp"))
    headers = sorted(str(path) for path in Path("csrc").glob("**/*.[hi]*"))
    system_includes = [f"-isystem{path}" for path in (pybind11.get_include(), *cpp_extension.include_paths())]
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
            "-Wall",
            "-Wextra",
            "-Wno-psabi",
            *system_includes,
        ],
        library_dirs=cpp_extension.library_paths(),
        libraries=["torch_cpu"],
        extra_link_args=["-s"] if sys.platform == "linux" else [],
        language="c++",
    )


def native_options() -> dict[str, object]:
    """The arguments of setup() that build the extension, or none with a word to the user."""
    if not has_compiler():
        print(NO_COMPILER, file=sys.stderr)
        return {}
    from torch.utils.cpp_extension import BuildExtension

    return {"ext_modules": [extension()], "cmdclass": {"build_ext": BuildExtension}}


setup(
    packages=packages(),
    package_dir={target: folder for folder, target in FOLDERS.items()},
    **native_options(),
)
