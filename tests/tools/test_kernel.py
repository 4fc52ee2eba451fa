"""Cells in the kernel.

Proves: what they print comes back; whatever they do to the kernel, the next cell works; a cancel from another thread
ends the cell that runs and no other, with its variables kept where that can be; closing from another thread is safe;
output that is too large for a message, and a picture that may not be opened, are said to be missing.
"""

import os
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from textwrap import dedent

import pytest
from needs import needs_bubblewrap
from PIL import Image
from psutil import STATUS_ZOMBIE, Process

from foveate.errors import ImageError, KernelLostError, SandboxUnavailableError, ToolError, ToolTimeoutError
from foveate.tools.cell import CUT_MARK, MAX_OUTPUT_CHARS, CellOutput, only_calculates, png_of, take
from foveate.tools.kernel import INTERRUPT_GRACE_S, Kernel


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel() as running:
        yield running


ENDLESS = "while True: pass"
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"


@contextmanager
def soon(act: Callable[[], None], every_s: float = 0.4) -> Iterator[None]:
    """Do something from another thread, again and again until the block ends: at first its cell may not run yet."""
    ended = threading.Event()

    def act_until_the_end() -> None:
        while not ended.wait(every_s):
            act()

    thread = threading.Thread(target=act_until_the_end)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def is_alive_after(process: Process, patience_s: float) -> bool:
    """Whether a process still runs when the time is up; one that nobody has reaped does not."""
    deadline = time.monotonic() + patience_s
    while process.is_running() and process.status() != STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return True
        time.sleep(0.02)
    return False


@needs_bubblewrap
def test_output_values_and_variables(kernel: Kernel) -> None:
    assert kernel.run("x = 4.5 + 3.2; print(x)").text == "7.7\n"
    assert kernel.run("x * 2").text == "15.4\n"
    assert kernel.run("import sys; print('e', file=sys.stderr)").text == "e\n"
    assert kernel.run("import os; count = os.write(1, b'raw\\n')").text == "raw\n"
    failed = kernel.run("a = 1\na / 0")
    assert failed.error == "ZeroDivisionError: division by zero"
    assert "----> 2" in failed.traceback


@needs_bubblewrap
def test_images_of_the_run_are_files(kernel: Kernel) -> None:
    images = [Image.new("RGB", (6, 4), "red"), Image.new("RGB", (3, 5), "blue")]
    code = "from PIL import Image\nprint(Image.open('image_0.png').size, Image.open('image_1.png').getpixel((0, 0)))"
    assert kernel.run(code, images=images).text == "(6, 4) (0, 0, 255)\n"
    assert kernel.run("open('image_0.png', 'w')").error.startswith("OSError")
    listed = kernel.run("import glob; print(glob.glob('*.png'))", images=[*images, Image.new("RGB", (2, 2))])
    assert listed.text.count("image_") == 3


class Shown(list[Image.Image]):
    """Images with names."""

    sha256s: tuple[str, ...] = ()


@needs_bubblewrap
def test_a_number_that_means_another_image_now_shows_that_one() -> None:
    code = "from PIL import Image; print(Image.open('image_0.png').size)"
    with Kernel() as kernel:
        for side, name in ((6, "a"), (5, "b"), (9, "b")):  # the last one is the same by its name: it is not written
            images = Shown([Image.new("RGB", (side, 4))])
            images.sha256s = (name,)
            assert kernel.run(code, images=images).text == f"({min(side, 6 if name == 'a' else 5)}, 4)\n"


@needs_bubblewrap
def test_an_image_takes_the_place_of_a_file_of_the_models(kernel: Kernel) -> None:
    images = [Image.new("RGB", (6, 4), "red"), Image.new("RGB", (3, 5), "blue")] * 4
    kernel.run("for n in (6, 7): open(f'image_{n}.png', 'w').write('mine')", images=images[:6])
    shown = "from PIL import Image; print(Image.open('image_6.png').size, Image.open('image_7.png').size)"
    assert kernel.run(shown, images=images).text == "(6, 4) (3, 5)\n"
    kernel.run("import os; os.remove('image_7.png'); os.mkdir('image_7.png')")
    assert kernel.run("os.listdir('image_7.png')", images=images).text == "[]\n"
    kernel.run("os.rmdir('image_7.png')")
    assert kernel.run(shown, images=images).text == "(6, 4) (3, 5)\n"


@pytest.mark.parametrize("code", ["print(round(2.5 + max(3, 4), 1))", "a, b = 3, [1, 2]\nf'{sum(b) - a}'", "x = 1"])
def test_a_calculation_needs_no_files(code: str) -> None:
    assert only_calculates(code)


@pytest.mark.parametrize(
    "code",
    [
        "open('image_0.png')", "import glob", "from PIL import Image", "f(1)", "later", "!ls", "%ls", "eval('1')",
        "().__class__", "sum = open\nsum('x')", "y('x')\ny = 1", "print(g := 1, g(2))", "a = lambda: 1\na()",
        "[f(x) for x in range(3)]", "def f(): ...\nf()", "@f\nclass A: ...", "[" * 2000, "\x00", "__import__('os')",
    ],
)  # fmt: skip
def test_what_could_open_a_file_is_no_calculation(code: str) -> None:
    assert not only_calculates(code)


@needs_bubblewrap
def test_pictures_become_files_when_a_cell_may_want_them() -> None:
    images = [Image.new("RGB", (6, 4), "red")]
    with Kernel() as kernel:
        assert kernel.run("print(1 + 1)", images=images).text == "2\n"
        assert kernel.folder is not None
        shelf = kernel.folder / "host" / "images"
        assert list(shelf.iterdir()) == []
        assert kernel.run("read = lambda: open('image_0.png').name\nread()", images=images).text == "'image_0.png'\n"
        assert len(list(shelf.iterdir())) == 1


@needs_bubblewrap
def test_pictures_come_back(kernel: Kernel) -> None:
    (picture,) = kernel.run("from PIL import Image; Image.new('RGB', (7, 5), 'green')").images
    assert (picture.size, picture.getpixel((0, 0))) == ((7, 5), (0, 128, 0))


@needs_bubblewrap
@pytest.mark.parametrize(
    "flood",
    [
        "print('x' * 10**8)",
        "for _ in range(10**5): print('x' * 1000)",
        "for _ in range(400): print('y' * 10**5, end='')",
        "import os\nfor _ in range(400): os.write(1, b'y' * 10**5)",
        "import os\nfor _ in range(400): os.write(2, b'y' * 10**5)",
    ],
)
def test_floods_of_output_are_cut_and_marked(kernel: Kernel, flood: str) -> None:
    output = kernel.run(flood, timeout_s=60)
    assert output.truncated
    assert len(output.text) < MAX_OUTPUT_CHARS + 100
    assert kernel.run("print('still here')").text == "still here\n"


TOO_LARGE = "display({'text/plain': 'x' * 20_000_000}, raw=True)"


@needs_bubblewrap
@pytest.mark.parametrize("flood", [TOO_LARGE, "b'x' * 20_000_000"])
def test_output_too_large_for_a_message_is_told_and_the_next_cells_are_heard(
    kernel: Kernel, flood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foveate.tools.kernel.INTERRUPT_GRACE_S", 0.5)
    assert kernel.run(flood).text == "\n[some output was too large and is missing]\n"
    assert kernel.run("print(6 * 7)").text == "42\n"
    assert kernel.run("1 / 0").error == "ZeroDivisionError: division by zero"


@needs_bubblewrap
def test_a_cell_whose_output_was_too_large_has_its_error_all_the_same(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foveate.tools.kernel.INTERRUPT_GRACE_S", 0.5)
    failed = kernel.run(f"{TOO_LARGE}\n1 / 0")
    assert "is missing" in failed.text
    assert failed.error == "ZeroDivisionError: division by zero"
    assert "----> 2" in failed.traceback


@needs_bubblewrap
def test_a_cell_that_is_stopped_after_too_large_an_output_deafens_nobody(kernel: Kernel) -> None:
    with pytest.raises(ToolTimeoutError, match="variables are kept"):
        kernel.run(f"kept = 7\n{TOO_LARGE}\nwhile True: pass", timeout_s=3.0)
    assert kernel.run("print(kept)") == CellOutput(text="7\n")


@needs_bubblewrap
def test_an_error_whose_message_is_too_large_is_cut(kernel: Kernel) -> None:
    kernel.run("kept = 7")
    failed = kernel.run("raise ValueError('x' * 20_000_000)")
    assert failed.error.startswith("ValueError: xxx")
    assert len(failed.error) + len(failed.traceback) < 300_000
    assert kernel.run("print(kept)").text == "7\n"


@needs_bubblewrap
def test_a_program_may_write_to_the_output_of_its_cell(kernel: Kernel) -> None:
    code = "import subprocess, sys; done = subprocess.run(['echo', 'hi'], stdout=sys.stdout)"
    assert kernel.run(code).text == "hi\n"


@needs_bubblewrap
def test_a_python_without_a_call_of_linux_asks_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """As some that conda and uv bring."""
    monkeypatch.delattr(os, "pidfd_open")
    with Kernel() as kernel:
        assert kernel.run("6 * 7").text == "42\n"
        with pytest.raises(KernelLostError, match="died"):
            kernel.run("import os; os._exit(1)")


def test_another_system_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")
    with pytest.raises(SandboxUnavailableError, match="code runs on Linux alone"):
        Kernel()


@needs_bubblewrap
def test_many_displays_are_capped(kernel: Kernel) -> None:
    output = kernel.run("from PIL import Image\nfor n in range(50): display(Image.new('L', (9, 9), n))")
    assert (len(output.images), output.num_images, output.truncated) == (8, 50, True)


@needs_bubblewrap
def test_input_is_refused(kernel: Kernel) -> None:
    assert kernel.run("input('name? ')").error.startswith("StdinNotImplementedError")
    assert kernel.run("1").text == "1\n"


@needs_bubblewrap
def test_an_endless_loop_is_interrupted_and_variables_stay(kernel: Kernel) -> None:
    kernel.run("kept = 42")
    start = time.monotonic()
    with pytest.raises(ToolTimeoutError, match=r"longer than 0.5 s and was interrupted; variables are kept"):
        kernel.run("while True: pass", timeout_s=0.5)
    assert time.monotonic() - start < 2.0
    assert kernel.run("kept").text == "42\n"


@needs_bubblewrap
def test_what_an_interrupted_cell_has_started_ends_with_it(kernel: Kernel) -> None:
    running = (
        "[p for p in os.listdir('/proc') if p.isdigit() and open(f'/proc/{p}/cmdline').read().startswith('sleep')]"
    )
    kernel.run("import os, subprocess")
    cell = "subprocess.Popen(['sleep', '99'], start_new_session=True)\nwhile True: pass"
    with pytest.raises(ToolTimeoutError, match="was interrupted; variables are kept"):
        kernel.run(cell, timeout_s=0.5)
    assert kernel.run(running).text == "[]\n"


@needs_bubblewrap
def test_a_cell_that_never_stops_to_send_is_ended_too(kernel: Kernel) -> None:
    flood = """
    from IPython import get_ipython
    k = get_ipython().kernel
    while True:
        k.session.send(k.iopub_socket, "stream", {"name": "stdout", "text": "x"}, parent=k.get_parent())
    """
    kernel.run("1")
    start = time.monotonic()
    with pytest.raises(ToolTimeoutError, match=r"longer than 0.5 s"):
        kernel.run(dedent(flood), timeout_s=0.5)
    assert time.monotonic() - start < 10


@needs_bubblewrap
def test_a_kernel_forgets_files_processes_and_variables() -> None:
    left = "import os; os.listdir(), os.listdir('/tmp'), os.listdir('/dev/shm'), 'kept' in globals()"
    with Kernel() as kernel:
        listed = kernel.run("import os; os.listdir('/tmp')").text.strip()  # where the package lies there, it is seen
        kernel.run("import os, subprocess; os.makedirs('d/e'); open('/tmp/t', 'w').close(); open('/dev/shm/s', 'w')")
        kernel.run("child = subprocess.Popen(['sleep', '99']).pid; kept = os.getpid()")
        kernel.forget()
        assert kernel.run(left).text == f"([], {listed}, [], False)\n"
        later = "[p for p in map(int, filter(str.isdigit, os.listdir('/proc'))) if p > os.getpid()]"
        alive = f"[p for p in {later} if open(f'/proc/{{p}}/stat').read().split()[2] != 'Z']"
        assert kernel.run(alive).text == "[]\n"


@needs_bubblewrap
def test_a_kernel_that_cannot_be_cleared_is_ended() -> None:
    with Kernel() as kernel:
        kernel.run("import os; os.makedirs('d/e'); os.chmod('d', 0); kept = 1")
        kernel.forget()
        assert not kernel.is_running
        assert kernel.run("import os; os.path.exists('d'), 'kept' in globals()").text == "(False, False)\n"


@needs_bubblewrap
@pytest.mark.parametrize("start", ["threading.Thread(target=wait)", "concurrent.futures.ThreadPoolExecutor(1)"])
def test_a_kernel_with_a_thread_that_goes_on_is_ended(start: str) -> None:
    wait = "import concurrent.futures, threading, time\ndef wait(): time.sleep(60)\n"
    with Kernel() as kernel:
        kernel.run("print('the first cell of a kernel')")
        kernel.run(f"{wait}going = {start}\ngoing.start() if hasattr(going, 'start') else going.submit(wait)")
        kernel.forget()
        assert not kernel.is_running
        kernel.run(f"{wait}ended = threading.Thread(target=print)\nended.start()\nended.join()")
        kernel.run("import numpy, matplotlib.pyplot as plt; plt.plot(numpy.eye(3)); plt.show()")
        kernel.forget()
        assert kernel.is_running


def test_without_a_boundary_programs_end_with_their_kernel() -> None:
    with Kernel(tier="unsafe") as kernel:
        start = "import subprocess; print(subprocess.Popen(['sleep', '99']).pid)"
        running = Process(int(kernel.run(start).text))
        kernel.close()
        assert not is_alive_after(running, 1.0)
        left = Process(int(kernel.run(start).text))
        with pytest.raises(KernelLostError):
            kernel.run("import os; os.kill(os.getpid(), 9)")
        assert not is_alive_after(left, 1.0)


def test_a_fork_starts_kernels_too() -> None:
    code = """
import os, signal
from foveate.tools.kernel import Kernel
def live():
    with Kernel(tier="unsafe") as kernel:
        print(kernel.run("print(6 * 7)").text, end="", flush=True)
live()
child = os.fork()
if child == 0:
    signal.alarm(20)
    live()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("42\n42\n", 0), run.stderr


def test_a_fork_that_ends_leaves_the_kernel_of_its_parent() -> None:
    code = """
import os, sys
from foveate.tools.kernel import Kernel
kernel = Kernel(tier="unsafe")
kernel.run("open('kept', 'w').close()")
child = os.fork()
if child == 0:
    sys.exit()
os.waitpid(child, 0)
print(kernel.run("import os; print(os.path.exists('kept'))").text, end="")
kernel.close()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("True\n", 0), run.stderr


@needs_bubblewrap
def test_it_works_whatever_the_umask() -> None:
    before = os.umask(0o077)
    try:
        with Kernel() as kernel:
            code = "from PIL import Image; print(Image.open('image_0.png').size)"
            assert kernel.run(code, images=[Image.new("RGB", (6, 4))]).text == "(6, 4)\n"
    finally:
        os.umask(before)


@needs_bubblewrap
def test_a_loop_that_ignores_interrupts_is_killed() -> None:
    with Kernel() as kernel:
        with pytest.raises(ToolTimeoutError, match="killed, variables are lost"):
            kernel.run(DEAF, timeout_s=0.5)
        assert kernel.run("print('anew')").text == "anew\n"


@needs_bubblewrap
@pytest.mark.parametrize("code", [ENDLESS, "import time; time.sleep(60)", "while True: print('x' * 1000)"])
def test_a_cancelled_cell_ends_at_once_and_variables_stay(kernel: Kernel, code: str) -> None:
    kernel.run("kept = 42")
    start = time.monotonic()
    with soon(kernel.cancel), pytest.raises(ToolError, match=r"^the code was cancelled .* variables are kept"):
        kernel.run(code)
    assert time.monotonic() - start < 0.4 + INTERRUPT_GRACE_S
    assert kernel.run("kept").text == "42\n"


@needs_bubblewrap
def test_a_cancel_right_after_the_cell_was_sent_keeps_the_variables(kernel: Kernel) -> None:
    kernel.run("kept = 42")
    for every_ms in range(1, 7):
        with soon(kernel.cancel, every_ms / 1000), pytest.raises(ToolError, match="the code was cancelled"):
            kernel.run(ENDLESS)
        assert kernel.run("kept").text == "42\n"


@needs_bubblewrap
def test_a_cancelled_cell_that_ignores_interrupts_is_killed() -> None:
    with Kernel() as kernel:
        kernel.run("1")
        start = time.monotonic()
        with soon(kernel.cancel), pytest.raises(ToolError, match=r"^the code was cancelled .* variables are lost"):
            kernel.run(DEAF)
        assert time.monotonic() - start < 0.4 + INTERRUPT_GRACE_S + 1.5
        assert not kernel.is_running


JUNK = """
import contextlib, os, socket
for name in os.listdir("/proc/self/fd"):
    with contextlib.suppress(OSError):
        with socket.socket(fileno=os.dup(int(name))) as one:
            one.getpeername()
            one.send(b"\\xff" * 4096)
"""


@needs_bubblewrap
def test_junk_on_its_sockets_costs_the_kernel_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.tools.kernel.INTERRUPT_GRACE_S", 0.3)
    with Kernel() as kernel:
        kernel.run("1")
        start = time.monotonic()
        with pytest.raises(ToolError):
            kernel.run(JUNK, timeout_s=1)
        assert time.monotonic() - start < 10
        assert kernel.run("1 + 1").text == "2\n"


@needs_bubblewrap
def test_a_cancel_between_cells_changes_nothing(kernel: Kernel) -> None:
    kernel.run("kept = 42")
    kernel.cancel()
    kernel.cancel()
    assert kernel.run("import time; time.sleep(0.2); print(kept)").text == "42\n"


@needs_bubblewrap
@pytest.mark.parametrize("every_s", [0.1, 0.8])
def test_closing_from_another_thread_ends_the_cell(every_s: float) -> None:
    with Kernel() as kernel:
        with soon(kernel.close, every_s), pytest.raises(KernelLostError, match="the code kernel died"):
            kernel.run(ENDLESS)
        assert (kernel.is_running, kernel.folder) == (False, None)
        assert kernel.run("print('anew')").text == "anew\n"


@needs_bubblewrap
def test_a_cancel_reaches_a_kernel_that_starts() -> None:
    with Kernel() as kernel:
        with soon(kernel.cancel, 0.1), pytest.raises(ToolError, match="the code was cancelled"):
            kernel.run(ENDLESS)
        assert kernel.run("print('works')").text == "works\n"


@needs_bubblewrap
def test_a_dead_kernel_is_noticed_at_once_and_replaced() -> None:
    with Kernel() as kernel:
        kernel.run("x = 1")
        start = time.monotonic()
        with pytest.raises(KernelLostError, match="the code kernel died"):
            kernel.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", timeout_s=60)
        assert time.monotonic() - start < 1.0
        assert kernel.run("x").error.startswith("NameError")


@needs_bubblewrap
def test_a_broken_message_ends_the_kernel() -> None:
    with Kernel() as kernel:
        kernel.run("1")
        forge = "get_ipython().kernel.iopub_socket.send_multipart([b'stream', b'<IDS|MSG>', b'no', b'json'])"
        with pytest.raises(KernelLostError, match="broken message"):
            kernel.run(forge)
        assert kernel.run("1 + 1").text == "2\n"


@needs_bubblewrap
def test_a_kernel_may_be_closed_before_it_ran_and_twice() -> None:
    kernel = Kernel()
    kernel.close()
    assert kernel.run("kept = 1").text == ""
    folder = kernel.folder
    assert folder is not None
    kernel.close()
    kernel.close()
    assert (kernel.is_running, kernel.folder, folder.exists()) == (False, None, False)


@needs_bubblewrap
def test_kernels_leave_nothing_behind(kernel: Kernel) -> None:
    kernel.run("1")

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), len(Process().children(recursive=True))

    def live(number: int) -> tuple[str, bool]:
        with Kernel() as one:
            text = one.run(f"print({number})").text
            folder = one.folder
            assert folder is not None
            assert folder.is_dir()
        return text, folder.exists()

    before = held()
    with ThreadPoolExecutor(6) as pool:
        lives = [*map(live, range(2)), *pool.map(live, range(2, 8))]
    assert lives == [(f"{number}\n", False) for number in range(8)]
    assert held() == before


def test_text_is_capped_on_the_host() -> None:
    output = CellOutput()
    for _ in range(5):
        output.write("z" * MAX_OUTPUT_CHARS)
    assert output.text.count(CUT_MARK) == 1
    assert len(output.text) < MAX_OUTPUT_CHARS + 100


def test_ten_thousand_outputs_are_capped_and_marked() -> None:
    output, png = CellOutput(), BytesIO()
    Image.new("L", (1, 1)).save(png, "PNG")
    picture = {"image/png": b64encode(png.getvalue()).decode(), "text/plain": "a picture"}
    for data in (picture, {"text/plain": "z" * 100}):
        for _ in range(10_000):
            take({"msg_type": "display_data", "content": {"data": data}}, output)
    assert (len(output.images), output.num_images, output.truncated) == (8, 10_000, True)
    assert output.text.count(CUT_MARK) == 1
    assert len(output.text) < MAX_OUTPUT_CHARS + 100


@pytest.mark.parametrize(
    "content", [{"data": None}, {"data": {"image/png": 3}}, {"data": {"text/html": "<script>"}}, {}]
)
def test_hostile_mime_is_left_out(content: dict[str, object]) -> None:
    output = CellOutput()
    take({"msg_type": "display_data", "content": content}, output)
    take({"msg_type": "error", "content": {"traceback": 7}}, output)
    take({"content": {}}, output)
    assert (output.text, output.images) == ("", [])


@pytest.mark.parametrize("data", [None, "", "no base64!", "R0lGODlhAQABAAAAACw="])
def test_what_is_no_png_is_left_out(data: object) -> None:
    assert png_of(data) is None


def test_a_png_that_is_broken_is_told() -> None:
    with pytest.raises(ImageError, match="the picture is not a picture that can be read"):
        png_of("iVBORw0KGgo=")


def test_a_picture_that_may_not_be_opened_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.tools.cell.MAX_IMAGE_PIXELS", 11)
    output, png = CellOutput(), BytesIO()
    Image.new("L", (4, 3)).save(png, "PNG")
    data = {"image/png": b64encode(png.getvalue()).decode(), "text/plain": "<a picture>"}
    take({"msg_type": "display_data", "content": {"data": data}}, output)
    reason = "the picture has 4 x 3 = 12 pixels; give at most 11: scale it down first"
    assert output.text == f"[a picture is not shown: {reason}]\n<a picture>\n"
    assert (output.images, output.num_images) == ([], 0)
