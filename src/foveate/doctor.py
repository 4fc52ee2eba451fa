"""What works on this machine: each finding says what was found and, if it is not well, how to mend it.

A probe is a function that returns a `Finding`; whatever it raises is a finding too, so that a broken part never hides
the state of the others.
"""

import importlib.util
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from foveate.errors import FoveateError

State = Literal["ok", "warn", "fail"]
AS_SAID = "change what the message names to what it wants"
REINSTALL = "install Foveate again from the folder or wheel that you installed it from"

EXTRAS = {
    "hub": ("huggingface_hub", "transformers"),
    "openai": ("langchain_openai",),
    "postgres": ("psycopg",),
    "video": ("av",),
    "train": ("math_verify", "matplotlib", "peft", "tensorboard"),
    "ray": ("ray",),
    "trl": ("datasets",),
}
"""What an extra of Foveate's brings, as modules."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The state of one part."""

    name: str
    state: State
    found: str
    fix: str = ""
    """What to do; empty when all is well."""

    def to_json(self) -> dict[str, Any]:
        """The object of ``foveate doctor --json``."""
        return asdict(self)


def examine() -> Iterator[Finding]:
    """Every finding, in the order of the report."""
    for name, probe in PROBES.items():
        try:
            yield probe(name)
        except Exception as error:  # noqa: BLE001  the point of a doctor is to report whatever is broken
            fix = AS_SAID if isinstance(error, FoveateError) else REINSTALL
            yield Finding(name=name, state="fail", found=f"{type(error).__name__}: {error}", fix=fix)


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing essential fails."""
    return all(finding.state != "fail" for finding in findings)


def report_lines(finding: Finding) -> list[str]:
    """The finding as one line, and its fix as a second."""
    from foveate.agent.plain import one_line

    lines = [f"{finding.state:<5} {finding.name:<16} {one_line(finding.found, 200)}"]
    return [*lines, f"{'':<22} fix: {finding.fix}"] if finding.fix else lines


def _foveate(name: str) -> Finding:
    from foveate import __version__

    where = Path(__file__).parent
    return Finding(name=name, state="ok", found=f"{__version__} in {where}")


def _python(name: str) -> Finding:
    return Finding(
        name=name, state="ok", found=f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )


def _torch(name: str) -> Finding:
    import torch

    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU (none is needed)"
    found = f"{torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} threads{device}"
    return Finding(name=name, state="ok", found=found)


def _native(name: str) -> Finding:
    import torch

    from foveate import ops

    if ops.is_native():
        on_gpu = f"; on the GPU {ops.cuda_backend()}" if torch.cuda.is_available() else ""
        return Finding(name=name, state="ok", found=ops.backend() + on_gpu)
    fix = (
        "install g++ 12 or newer and python3-dev, then Foveate again from the folder that it came from "
        "(all works without, slower)"
    )
    return Finding(name=name, state="warn", found=ops.backend(), fix=fix)


def _sandbox(name: str) -> Finding:
    from foveate.tools.sandbox import advice, probe_result

    word = probe_result()
    if word != "confined":
        fix = f"{advice(word)}; zoom and search work without it"
        return Finding(name=name, state="warn", found=f"none, so code is refused: {word}", fix=fix)
    return Finding(name=name, state="ok", found="bubblewrap, a probe was confined")


def _nano(name: str) -> Finding:
    from foveate.models import nano_path

    return model_finding(name, Path(nano_path()))


def model_finding(name: str, folder: Path) -> Finding:
    """Whether the model in a folder can be loaded, sees a picture and writes."""
    from PIL import Image

    from foveate.models import Thinker, ThinkerReasoner
    from foveate.ops import compute_dtype

    parts = [{"type": "image", "image": Image.new("RGB", (64, 64))}, {"type": "text", "text": "What?"}]
    try:
        reasoner = ThinkerReasoner(Thinker.from_pretrained(folder, dtype=compute_dtype()), name=name)
        reasoner.sample([{"role": "user", "content": parts}], max_new_tokens=2)
    except FoveateError as error:
        return Finding(name=name, state="fail", found=str(error), fix=REINSTALL)
    megabytes = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
    return Finding(name=name, state="ok", found=f"{megabytes:.1f} MB in {folder}, it answers")


def _search(name: str) -> Finding:
    from foveate.tools import search_tool

    text = search_tool().call({"query": "capital of Norway"}, []).text
    if "Oslo" not in text:
        return Finding(name=name, state="warn", found=f"the local index answers wrongly: {text}", fix=REINSTALL)
    return Finding(name=name, state="ok", found=f"the local index answers: {text}")


def _web_search(name: str) -> Finding:
    return _optional(name, ("ddgs",), "--network is refused", "pip install ddgs")


def _terminal(name: str) -> Finding:
    modules = ("prompt_toolkit", "rich")
    return _optional(name, modules, "no conversation in the terminal", "pip install prompt-toolkit rich")


def _extras(name: str) -> Finding:
    found = (f"{extra} {'no' if missing(modules) else 'yes'}" for extra, modules in EXTRAS.items())
    return Finding(name=name, state="ok", found=", ".join(found))


def _data_dir(name: str) -> Finding:
    from platformdirs import user_data_path

    folder = user_data_path("foveate")
    holder = next(place for place in (folder, *folder.parents) if os.path.exists(place))  # noqa: PTH110  Path.exists raises for what may not be looked at
    if os.access(holder, os.W_OK | os.X_OK):
        return Finding(name=name, state="ok", found=str(folder))
    fix = "make the folder writable, or use --data-dir"
    return Finding(name=name, state="warn", found=f"{folder} cannot be written", fix=fix)


def _optional(name: str, modules: Iterable[str], without: str, fix: str) -> Finding:
    if lacking := missing(modules):
        return Finding(name=name, state="warn", found=f"{', '.join(lacking)} not installed: {without}", fix=fix)
    return Finding(name=name, state="ok", found="installed")


def missing(modules: Iterable[str]) -> list[str]:
    """Those of some modules that are not installed; nothing is imported."""
    return [module for module in modules if importlib.util.find_spec(module) is None]


PROBES: dict[str, Callable[[str], Finding]] = {
    "foveate": _foveate,
    "python": _python,
    "torch": _torch,
    "native kernels": _native,
    "sandbox": _sandbox,
    "nano": _nano,
    "search": _search,
    "web search": _web_search,
    "terminal": _terminal,
    "extras": _extras,
    "data folder": _data_dir,
}
