"""The boundary around model-written code: what code inside tries, and the operating system refuses.

Each attempt runs in a real kernel: one that this process started and, where this is root, one that an ordinary user
started, for whom the boundary is made in another way. Without bubblewrap on the machine these tests are skipped; that
code is then refused, whoever made the tools of a run, is tested anyway.
"""

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import venv
from ast import literal_eval
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Self

import pytest
from needs import needs_bubblewrap
from PIL import Image

from foveate.agent.arguments import usual_tools
from foveate.cli.options import tools_for
from foveate.errors import SandboxUnavailableError
from foveate.models import Thinker
from foveate.models.reasoner import NANO
from foveate.rl.rollout import rollouts
from foveate.tools import PythonTool, Tool, ToolCall, ToolResult, default_tools, perform, sandbox
from foveate.tools.cell import CellOutput
from foveate.tools.kernel import Kernel
from foveate.tools.run_folder import sweep
from foveate.tools.sandbox import (
    ABSENT,
    PYTHON,
    SEARCH_PATH,
    Limits,
    mounts_in,
    parent_folders,
    probe,
    probe_result,
    python_paths,
    required_tier,
    sandbox_tier,
    told_tier,
)

LIMITS = Limits(memory_bytes=512 * 2**20, work_bytes=16 * 2**20)
SERVE = """
import json, os, sys
from foveate.tools.kernel import Kernel
from foveate.tools.sandbox import Limits
with Kernel(limits={limits!r}) as kernel:
    for line in sys.stdin:
        output = kernel.run(json.loads(line))
        print(json.dumps([os.geteuid(), output.text, output.error]), flush=True)
"""
NOBODY = 12345


class TheirKernel:
    """A kernel that an ordinary user has started."""

    def __enter__(self) -> Self:
        command = as_ordinary_user([sys.executable, "-c", SERVE.format(limits=LIMITS)])
        self.host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.host.communicate(timeout=10)

    def run(self, code: str) -> CellOutput:
        """Run a cell in it."""
        assert self.host.stdin is not None
        assert self.host.stdout is not None
        print(json.dumps(code), file=self.host.stdin, flush=True)
        uid, text, error = json.loads(self.host.stdout.readline())
        assert uid == NOBODY
        return CellOutput(text=text, error=error)


def as_ordinary_user(command: list[str]) -> list[str]:
    """The command as a user without rights, who sees this Python and the sources also when they lie in root's home."""
    needed = [Path(__file__).parents[2], *map(Path, python_paths())]
    closed = {above for path in needed for above in path.parents if not above.stat().st_mode & 0o001}
    view = [word for folder in sorted(closed) for word in ("--tmpfs", str(folder))]
    for path in (path for path in needed if closed & set(path.parents)):
        view += [*parent_folders(path), "--ro-bind", str(path), str(path)]
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return ["bwrap", "--dev-bind", "/", "/", *view, *user, *command]


@pytest.fixture(scope="module", params=["ours", "of an ordinary user"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel | TheirKernel]:
    if request.param != "ours" and os.geteuid() != 0:
        pytest.skip("an ordinary user runs these tests already")
    with Kernel(limits=LIMITS) if request.param == "ours" else TheirKernel() as running:
        yield running


def error_of(kernel: Kernel | TheirKernel, code: str) -> str:
    """The exception that a cell ends with."""
    return kernel.run(code).error


def wait_until_gone(mark: str) -> None:
    """Return when no process has `mark` in its command line; fail after a second."""
    start = time.monotonic()
    while any(mark.encode() in command_line(process) for process in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() - start < 1
        time.sleep(0.02)


def command_line(process: Path) -> bytes:
    """The command line of a process, empty when it has ended."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@needs_bubblewrap
def test_the_probe_finds_bubblewrap() -> None:
    assert sandbox_tier() == "bubblewrap"
    assert required_tier() == "bubblewrap"


def test_without_a_tier_code_is_refused_unless_accepted() -> None:
    with pytest.raises(SandboxUnavailableError, match=r"\(bubblewrap is not installed\); install bubblewrap"):
        required_tier(found=ABSENT)
    with pytest.raises(SandboxUnavailableError, match=r"reached the network\); update bubblewrap"):
        required_tier(found="code in bubblewrap reached the network")
    assert required_tier(unsafe=True, found=ABSENT) == "unsafe"
    assert required_tier(unsafe=True, found="confined") == "bubblewrap"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (None, r"\(bubblewrap is not installed\); install bubblewrap"),
        ("echo bwrap: setting up uid map: Permission denied", r"Permission denied\); let bubblewrap make namespaces"),
    ],
)
def test_a_model_cannot_run_code_where_the_sandbox_does_not_work(
    program: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program is not None:
        (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setattr("foveate.tools.sandbox.SEARCH_PATH", str(tmp_path))
    code = "from PIL import Image; print(Image.open('image_0.png').size)"
    call, images = ToolCall(id="1", name="python", arguments={"code": code}), [Image.new("RGB", (6, 4))]
    probe_result.forget()
    try:
        refused = perform([PythonTool()], call, images)
        assert refused.failed
        assert re.search(reason, refused.text)
        if program is None:  # once is enough
            accepted = PythonTool(unsafe=True)
            assert perform([accepted], call, images).text == "(6, 4)"
            accepted.close()
    finally:
        probe_result.forget()


@pytest.fixture
def without_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has none."""
    monkeypatch.setattr(sandbox, "SEARCH_PATH", str(tmp_path))
    probe_result.forget()
    yield
    probe_result.forget()


def result_of_code(tools: Iterable[Tool]) -> ToolResult:
    """What comes of a cell when a run has these tools."""
    of_run = [tool.for_run() for tool in tools]
    result = perform(of_run, ToolCall(id="1", name="python", arguments={"code": "print(1)"}), [])
    for tool in of_run:
        tool.close()
    return result


@pytest.mark.usefixtures("without_bubblewrap")
@pytest.mark.parametrize(
    ("unsafe", "said"),
    [(False, "python: no sandbox for code on this machine"), (True, "1")],
    ids=["refused", "accepted"],
)
@pytest.mark.parametrize(
    "made",
    [default_tools, partial(usual_tools, NANO), partial(tools_for, NANO, no_tools=False, network=False)],
    ids=["default", "agent", "command line"],
)
def test_the_tools_of_a_run_take_code_without_a_sandbox_only_where_that_is_accepted(
    made: Callable[..., tuple[Tool, ...]], unsafe: bool, said: str
) -> None:
    result = result_of_code(made(unsafe=unsafe))
    assert (result.failed, result.text.partition(" (")[0]) == (not unsafe, said)


@pytest.mark.usefixtures("without_bubblewrap")
def test_rollouts_take_no_code_without_a_sandbox(thinker: Thinker) -> None:
    with rollouts(thinker, at_once=1) as playing:
        result = result_of_code(playing.tools())
    assert result.failed
    assert result.text.startswith("python: no sandbox for code on this machine")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "sleep 9",
            "a probe of the sandbox took longer than 0.1 s); ask again when the machine has less to do",
        ),
        (
            "echo the sandbox does not see zmq",
            "the sandbox does not see zmq); install Foveate into a virtual environment, all of it, where everybody",
        ),
    ],
)
def test_what_a_probe_finds_is_said_in_a_line_with_what_to_do(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\nexec {program}\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setattr(sandbox, "SEARCH_PATH", f"{tmp_path}:/bin")
    if program.startswith("sleep"):
        monkeypatch.setattr(sandbox, "PROBE_S", 0.1)
        monkeypatch.setattr(sandbox, "SLOW", "a probe of the sandbox took longer than 0.1 s")
    found = sandbox.probe(tmp_path)
    assert said in sandbox.refusal(found)
    assert "import" not in sandbox.refusal(found)


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """The probe has said nothing yet."""
    probe_result.forget()
    yield
    probe_result.forget()


@pytest.mark.usefixtures("asked_anew")
def test_a_machine_where_no_folder_can_be_made_is_told_and_runs_no_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_only() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(sandbox, "RunFolder", read_only)
    assert told_tier() is None
    said = capsys.readouterr().err
    assert said.startswith("foveate: python calls fail: no sandbox for code on this machine (no folder for code: ")
    assert "Read-only file system); let /tmp be writable" in said
    call = ToolCall(id="1", name="python", arguments={"code": "print(1)"})
    refused = perform([PythonTool()], call, [])
    assert refused.failed
    assert "no folder for code: " in refused.text


@pytest.mark.usefixtures("asked_anew")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([sandbox.SLOW, "confined"], [sandbox.SLOW, "confined", "confined"]),
        ([f"bwrap: {sandbox.SHORT[0]}", "confined"], [f"bwrap: {sandbox.SHORT[0]}", "confined", "confined"]),
        ([ABSENT], [ABSENT] * 3),
    ],
    ids=["slow", "short", "absent"],
)
def test_only_a_passing_word_of_the_probe_is_asked_for_again(
    words: list[str], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter(words)
    monkeypatch.setattr(sandbox, "PASSES_S", 0.0)
    monkeypatch.setattr(sandbox, "probe", lambda _: next(asked))
    assert [probe_result() for _ in range(3)] == told
    assert list(asked) == []


def test_an_environment_in_tmp_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ["/opt/python/bin", "/tmp/a/venv/bin", "/tmp/a/venv/lib", "/tmp/pyvenv.cfg"]
    monkeypatch.setattr("foveate.tools.sandbox.python_paths", lambda: paths)
    assert mounts_in(("/dev/shm", "/tmp")) == ["/tmp/a", "/tmp/pyvenv.cfg"]


def test_no_path_of_python_is_seen_twice() -> None:
    paths = [Path(name) for name in python_paths()]
    assert not any(one != other and one.is_relative_to(other) for one in paths for other in paths)


def test_of_a_project_that_is_an_environment_only_python_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv.create(tmp_path)
    (tmp_path / ".env").touch()
    (tmp_path / "src").mkdir()
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    seen = {Path(name).name for name in python_paths() if Path(name).is_relative_to(tmp_path)}
    assert {"bin", "lib", "pyvenv.cfg"} <= seen <= set(PYTHON)


@needs_bubblewrap
@pytest.mark.skipif(Path(sys.prefix).is_relative_to("/usr"), reason="this Python is a part of the system")
def test_of_our_environment_only_python_is_seen(kernel: Kernel | TheirKernel) -> None:
    assert {"bin", "lib"} <= set(literal_eval(kernel.run(f"import os; os.listdir({sys.prefix!r})").text)) <= set(PYTHON)


@needs_bubblewrap
def test_a_sandbox_in_the_network_of_the_host_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bwrap = shutil.which("bwrap", path=SEARCH_PATH)
    kept = f'for word; do shift; [ "$word" = --unshare-net ] || set -- "$@" "$word"; done; exec {bwrap} "$@"'
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{kept}\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setattr("foveate.tools.sandbox.SEARCH_PATH", str(tmp_path))
    assert probe(tmp_path) == "code in bubblewrap reached the network of the host"


@needs_bubblewrap
@pytest.mark.parametrize(
    "path",
    ["/x", "/etc/x", "/usr/x", "/dev/x", "/sandbox/x", "/sandbox/host/x", "/root/x", f"{sys.prefix}/x", "/proc/x"],
)
def test_nothing_outside_the_working_folder_can_be_written(kernel: Kernel | TheirKernel, path: str) -> None:
    assert error_of(kernel, f"open({path!r}, 'w')").startswith(("OSError", "PermissionError", "FileNotFoundError"))


@needs_bubblewrap
def test_what_can_be_written_lies_in_memory(kernel: Kernel | TheirKernel) -> None:
    code = """
import os
mounts = [line.split(" - ") for line in open("/proc/self/mountinfo")]
kinds = {left.split()[4]: right.split()[0] for left, right in mounts}
print({path: kinds[path] for path in kinds if os.path.isdir(path) and os.access(path, os.W_OK)})
"""
    found = {path: kind for path, kind in literal_eval(kernel.run(code).text).items() if kind != "devpts"}  # no files
    assert found == dict.fromkeys(("/dev/shm", "/sandbox/work", "/tmp"), "tmpfs")


@needs_bubblewrap
@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/passwd", "/root/.ssh", "/home", "/var", __file__])
def test_files_of_the_host_cannot_be_seen(kernel: Kernel | TheirKernel, path: str) -> None:
    assert error_of(kernel, f"import os; os.stat({path!r})").startswith("FileNotFoundError")


@needs_bubblewrap
@pytest.mark.parametrize(
    "path",
    ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/dev/kmsg", "/dev/mem"],
)
def test_switches_of_the_system_cannot_be_opened(kernel: Kernel | TheirKernel, path: str) -> None:
    assert error_of(kernel, f"open({path!r}, 'r+')").startswith(("OSError", "PermissionError", "FileNotFoundError"))


@needs_bubblewrap
def test_the_environment_and_the_host_name_stay_outside(kernel: Kernel | TheirKernel) -> None:
    said = kernel.run("import os; print(os.geteuid() != 0, os.uname().nodename, *sorted(os.environ))").text.split()
    assert said[:2] == ["True", "sandbox"]
    assert {"HOME", "PATH", "USER"} <= set(said[2:])
    assert not any("KEY" in name or "TOKEN" in name or name.startswith(("SSH", "PYTEST")) for name in said[2:])


@needs_bubblewrap
@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', 22), 2)",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "import socket; socket.getaddrinfo('example.org', 80)",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "import socket; socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
        "import socket; socket.socket(socket.AF_UNIX).connect('\\0/tmp/.X11-unix/X0')",
        "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=2)",
    ],
)
def test_there_is_no_network(kernel: Kernel | TheirKernel, code: str) -> None:
    assert error_of(kernel, code).startswith(("OSError", "gaierror", "URLError", "FileNotFound", "ConnectionRefused"))


@needs_bubblewrap
def test_who_listens_on_the_host_is_not_reached(kernel: Kernel | TheirKernel) -> None:
    name = f"\0foveate-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as local, socket.create_server(("127.0.0.1", 0)) as remote:
        local.bind(name)
        local.listen()
        for listening in (local, remote):
            listening.setblocking(False)
        to_local = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
        assert error_of(kernel, to_local).startswith("ConnectionRefused")
        to_remote = f"import socket; socket.create_connection({remote.getsockname()!r}, 2)"
        assert error_of(kernel, to_remote).startswith(("OSError", "ConnectionRefused"))
        for listening in (local, remote):
            with pytest.raises(BlockingIOError):
                listening.accept()


@needs_bubblewrap
def test_rights_cannot_be_had_back(kernel: Kernel | TheirKernel) -> None:
    code = """
import ctypes, os, platform, resource
libc = ctypes.CDLL(None, use_errno=True)
namespaces = [libc.unshare(0x10000000), libc.unshare(0x00020000), libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)]
traced = libc.ptrace(16, 1, 0, 0)
def refused(action):
    try:
        action()
    except (OSError, ValueError):
        return True
tried = [refused(lambda: os.setuid(0)), refused(lambda: os.setgroups([0])), refused(lambda: os.chroot("/tmp"))]
tried.append(refused(lambda: resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))))
print(namespaces, traced, tried)
"""
    assert kernel.run(code).text == "[-1, -1, -1] -1 [True, True, True, True]\n"


@needs_bubblewrap
def test_the_working_folder_has_a_size(kernel: Kernel | TheirKernel) -> None:
    write = "with open('big', 'wb') as f:\n    for _ in range(40): f.write(bytes(2**20))"
    assert "No space left" in error_of(kernel, write)
    assert kernel.run("import os; os.remove('big'); open('small', 'w').write('x')").text == "1\n"


@needs_bubblewrap
def test_a_memory_bomb_is_an_error(kernel: Kernel | TheirKernel) -> None:
    assert error_of(kernel, "x = bytearray(2**30)").startswith("MemoryError")
    assert error_of(kernel, "import mmap; x = mmap.mmap(-1, 2**31)").startswith("PermissionError")
    assert error_of(kernel, "import os; os.memfd_create('x')").startswith("PermissionError")  # no limit counts these
    assert kernel.run("import ctypes; ctypes.CDLL(None).shmget(0, 4096, 0o1600)").text == "-1\n"
    assert kernel.run("1 + 1").text == "2\n"


@needs_bubblewrap
@pytest.mark.parametrize(
    "code",
    [
        "import multiprocessing as m\nwith m.Pool(2) as pool: print(sum(pool.map(abs, [-1, -2])))",
        "import multiprocessing as m\nx = m.Array('d', [1, 2]); print(int(sum(x)))",
        "from multiprocessing import shared_memory as m\nx = m.SharedMemory('s', True, 3); print(x.size); x.unlink()",
        "import mmap; x = mmap.mmap(-1, 3, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); print(len(x))",
        "import mmap\nwith open('f', 'wb+') as f: f.write(b'abc'); f.flush(); print(len(mmap.mmap(f.fileno(), 0)))",
    ],
)
def test_memory_that_is_counted_may_be_shared(kernel: Kernel | TheirKernel, code: str) -> None:
    assert kernel.run(code).text == "3\n"


@needs_bubblewrap
def test_a_fork_bomb_stops_and_is_gone_with_the_kernel() -> None:
    code = """
import os, time, warnings
warnings.simplefilter("ignore")  # newer Pythons warn of a fork beside threads
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError:
    print(count)
"""
    with Kernel() as kernel:
        assert 0 < int(kernel.run(code).text) < 64
        assert kernel.folder is not None
        mark, folder = str(kernel.folder), kernel.folder
    wait_until_gone(mark)
    assert not folder.exists()


@needs_bubblewrap
def test_kernels_do_not_outlive_their_host() -> None:
    code = """
import os, signal
from foveate.tools.kernel import Kernel
kernels = [Kernel(tier="bubblewrap"), Kernel(tier="unsafe")]
for kernel in kernels:
    kernel.run("1")
    print(kernel.folder, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    folders = [Path(line) for line in run.stdout.split()]
    assert len(folders) == 2, run.stderr
    for folder in folders:
        assert (folder / "host" / "images").is_dir()  # there was no time to remove it
        wait_until_gone(str(folder))
    sweep()
    assert not any(folder.exists() for folder in folders)


@needs_bubblewrap
def test_a_program_that_is_told_to_end_leaves_nothing() -> None:
    code = """
import os, signal, sys, threading
from foveate.tools.kernel import Kernel
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
kernel = Kernel(tier="bubblewrap")
kernel.run("1")
print(kernel.folder, flush=True)
threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
kernel.run("while True: pass")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 143, run.stderr
    assert Path(run.stdout.strip()).parent == Path("/tmp")
    assert not Path(run.stdout.strip()).exists()


@needs_bubblewrap
def test_links_pipes_and_devices_reach_no_file_of_the_host(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("as it was")
    with Kernel() as kernel:
        kernel.run(
            f"import os; os.symlink({str(theirs)!r}, 'image_1.png'); os.symlink({str(tmp_path)!r}, 'deep'); "
            "os.mkfifo('image_2.png'); os.mkfifo('pipe')"
        )
        assert error_of(kernel, "os.mknod('disk', 0o60666, os.makedev(8, 0))").startswith("PermissionError")
        assert error_of(kernel, "os.link(os.__file__, 'module.py')").startswith(("OSError", "PermissionError"))
        assert error_of(kernel, "open('image_1.png', 'w')").startswith("FileNotFoundError")
        images = [Image.new("RGB", (4, 4))] * 3
        assert kernel.run("open; 1", images=images).text == "1\n"  # none of the three is written through
        folder = kernel.folder
        kernel.forget()
        assert kernel.run("os.listdir()").error.startswith("NameError")
    assert folder is not None
    assert not folder.exists()
    assert theirs.read_text() == "as it was"
