"""The command line from its arguments to its exit code, with a scripted model in place of nano.

Proved: each documented exit code; the shape of --json; options reach the model, its tools and the conversation that is
meant; one line on stderr, and no traceback, for everything that a user can get wrong; text from a model cannot steer
the terminal; nothing heavy is imported before it is needed.
"""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import PIPE

import pytest
from looking import looks_once, num_images
from PIL import Image
from scripted import HERMES, ScriptedReasoner, answer

import foveate
from foveate.agent.archive import Archive
from foveate.agent.conversations import Conversations
from foveate.cli import EXIT_CODES, main
from foveate.cli.options import check_tools, tools_for
from foveate.cli.reasoner import load_reasoner
from foveate.errors import InputError, ModelError
from foveate.models.reasoner import NANO, Message
from foveate.tools import PythonTool
from foveate.tools.sandbox import probe_result

Ask = Callable[..., tuple[int, str, str]]
Script = Callable[[Sequence[Message]], str]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "street.png"
    Image.new("RGB", (800, 600), "#99aabb").save(path)
    return str(path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command with a script as the model; returns exit code, stdout, stderr."""

    def with_script(*arguments: str, script: Script = looks_once, pause_s: float = 0.0) -> tuple[int, str, str]:
        code = main(arguments, load=lambda *_: ScriptedReasoner(script, seconds_per_token=pause_s))
        out, err = capsys.readouterr()
        return code, out, err

    return with_script


def test_the_answer_is_on_stdout_alone(run: Ask, picture: str) -> None:
    assert run("ask", picture, "What does the label say?") == (0, "K7\n", "")


def test_a_person_at_a_terminal_sees_the_steps(
    run: Ask, picture: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = run("ask", picture, "What does the label say?")
    assert (code, out) == (0, "K7\n")
    assert "zoom" in err
    assert "2 turns" in err
    assert run("ask", picture, "What does the label say?", "--quiet") == (0, "K7\n", "")


def test_json_is_one_object_with_the_fixed_keys(run: Ask, picture: str) -> None:
    code, out, _ = run("ask", picture, "What does the label say?", "--json")
    record = json.loads(out)
    assert code == 0
    assert {"answer", "status", "steps", "usage"} <= set(record)
    assert (record["answer"], record["status"]) == ("K7", "answered")
    assert set(record["usage"]) == {"turns", "policy_tokens", "image_tokens", "tool_calls", "seconds"}
    keys = {"kind", "text", "tool", "arguments", "box", "image", "tokens", "seconds"}
    assert all(keys <= set(step) for step in record["steps"])
    (zoom,) = (step for step in record["steps"] if step["tool"] == "zoom")
    assert zoom["box"] == [80.0, 60.0, 320.0, 180.0]
    assert len(zoom["image"]) == 64


def test_all_pictures_go_with_the_question(run: Ask, picture: str, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "#334455").save(tmp_path / "house.png")
    pictures, counts = (picture, str(tmp_path / "house.png")), lambda messages: answer(f"{num_images(messages)} images")
    code, out, _ = run("ask", *pictures, "How many?", "--json", script=counts)
    record = json.loads(out)
    assert (code, record["answer"]) == (0, "2 images")
    assert [(image["width_px"], image["height_px"]) for image in record["images"]] == [(800, 600), (300, 200)]


def test_save_trace_writes_the_page(run: Ask, picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, err = run("ask", picture, "What does the label say?", "--save-trace", "~/trace")
    assert (code, out) == (0, "K7\n")
    assert f"trace: {tmp_path / 'trace' / 'trace.html'}" in err
    assert json.loads((tmp_path / "trace" / "trace.json").read_text())["answer"] == "K7"


def test_without_tools_a_call_fails_and_the_model_is_told(run: Ask, picture: str) -> None:
    _, out, _ = run("ask", picture, "What does the label say?", "--json", "--no-tools")
    assert [step["failed"] for step in json.loads(out)["steps"] if step["kind"] == "tool"] == [True]


def test_temperature_and_seed_reach_the_model(
    picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--temperature", "0.7", "--seed", "3", "--no-tools", "--max-turns", "1"]
    question = {"id": "a", "image": picture, "question": "What?", "answer": "K7"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(question))
    for command in (
        ["ask", picture, "What?", *options],
        ["eval", str(tmp_path), "--temperature", "0.7", "--seed", "3"],
        ["--image", picture, "--data-dir", str(tmp_path / "data"), *options],
    ):
        reasoner = ScriptedReasoner(lambda _: answer("K7"))
        monkeypatch.setattr(sys, "stdin", io.StringIO("What?\n"))
        assert main(command, load=lambda *_, reasoner=reasoner: reasoner) == 0, capsys.readouterr().err
        assert reasoner.temperatures == [0.7]
        assert reasoner.seeds == [3 * 1_000_003]


def test_network_has_the_web_searched(picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Web:
        def __init__(self, timeout_s: float) -> None:
            """For one search."""

        def text(self, query: str, *, max_results: int) -> list[dict[str, str]]:
            asked.append(query)
            return []

    monkeypatch.setattr("foveate.tools.engines.Engines", Web)
    call = '{"name":"search","arguments":{"query":"capital of Norway"}}'
    turns = [f"<think>I look it up.</think><tool_call>{call}</tool_call>", answer("Oslo")]
    for command, wanted in (
        (["ask", picture, "What?"], []),
        (["ask", picture, "What?", "--network"], ["capital of Norway"]),
        (["--image", picture, "--data-dir", str(tmp_path / "data"), "--network"], ["capital of Norway"]),
    ):
        asked.clear()
        monkeypatch.setattr(sys, "stdin", io.StringIO("What?\n"))
        assert main(command, load=lambda *_: ScriptedReasoner(turns)) == 0
        assert asked == wanted


@pytest.mark.parametrize("option", ["--max-turns", "--max-tokens", "--max-seconds", "--max-image-tokens"])
def test_a_budget_of_nothing_ends_cleanly_with_exit_code_1(run: Ask, picture: str, option: str) -> None:
    code, out, err = run("ask", picture, "What does the label say?", option, "0")
    assert (code, out) == (1, "")
    assert err.startswith("foveate: out of budget")
    assert err.count("\n") == 1


def test_the_best_answer_so_far_is_printed_when_the_budget_ends(run: Ask, picture: str) -> None:
    code, out, err = run("ask", picture, "What does the label say?", "--max-turns", "1")
    assert code == 1
    assert out.strip()
    assert "turns" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.png", "What?"], "there is no picture 'missing.png'"),
        (["BROKEN", "What?"], "broken.png is not a picture"),
        (["PICTURE", " "], "empty question"),
        (["PICTURE"], "got no question after"),
        (["What does it say?"], "got no picture before"),
        (["PICTURE", "What?", "--max-turns", "-1"], "turns=-1"),
        (["PICTURE", "What?", "--temperature", "-1"], "--temperature"),
        (["PICTURE", "What?", "--temperature", "nan"], "--temperature"),
        (["PICTURE", "What?", "--save-trace", "PICTURE"], "wanted a folder"),
        (["PICTURE", "What?", "--save-trace", "/proc/trace"], "wanted a folder"),
        (["~nobody-here/a.png", "What?"], "there is no picture"),
        (["missing.png", "x" * 300 + ". What?"], "there is no picture"),
        (["PICTURE", "What?", "--max-turns", "many"], "--max-turns"),
        (["PICTURE", "What?", "--no-such-option"], "--no-such-option"),
        ([], "IMAGE"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Ask, picture: str, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "broken.png").write_bytes(b"<html>not a picture</html>")
    names = {"PICTURE": picture, "BROKEN": str(tmp_path / "broken.png")}
    code, out, err = run("ask", *(names.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("foveate: ")
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize("name", ["gpt-9", "", ":int8", "transformers:"])
def test_an_unknown_model_is_one_line_and_exit_code_2(
    picture: str, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["ask", picture, "What?", "--model", name], load=load_reasoner) == 2
    wanted = "wanted nano, a folder that holds a checkpoint, OWNER/NAME of the hub, or http://HOST/v1#NAME"
    assert capsys.readouterr().err == f"foveate: got the model {name!r}, {wanted}\n"


def test_a_huge_picture_is_refused_before_a_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("1", (13000, 13000)).save(tmp_path / "huge.png")

    def never(*_: str) -> ScriptedReasoner:
        raise AssertionError("the model was loaded")

    assert main(["ask", str(tmp_path / "huge.png"), "What?"], load=never) == 2
    assert "huge.png" in capsys.readouterr().err


def test_a_bug_is_one_line_and_exit_code_70(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: str) -> ScriptedReasoner:
        raise RuntimeError("boom\nbang")

    assert main(["ask", picture, "What?"], load=broken) == 70
    assert capsys.readouterr().err == "foveate: unexpected RuntimeError: boom bang (FOVEATE_DEBUG=1 shows where)\n"


def test_debug_shows_the_traceback(picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEATE_DEBUG", "1")
    with pytest.raises(foveate.errors.InputError):
        main(["ask", picture, " "])


def test_an_interrupt_ends_with_130(picture: str) -> None:
    code = (
        "import sys; from looking import looks_once; from scripted import ScriptedReasoner;"
        "look = lambda messages: print('ready', flush=True) or looks_once(messages);"
        f"from foveate.cli import main; sys.exit(main(['ask', '--json', {picture!r}, 'a slow question'], "
        "load=lambda *_: ScriptedReasoner(look, seconds_per_token=0.05)))"
    )
    asking = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=PIPE, stderr=PIPE, text=True
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == "ready\n"
    asking.send_signal(signal.SIGINT)
    out, err = asking.communicate(timeout=20)
    assert (asking.returncode, json.loads(out)["status"]) == (130, "cancelled")
    assert err.startswith("foveate: ")
    assert err.count("\n") == 1


def test_a_signal_unwinds_what_is_under_way(picture: str) -> None:
    """A second one does not break off the cleaning up."""
    code = f"""
import signal, sys, time
from foveate.cli import main
def load(*_):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        signal.raise_signal(signal.SIGHUP)
        print("cleaned up", flush=True)
sys.exit(main(["ask", {picture!r}, "What?"], load=load))
"""
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=PIPE, stderr=PIPE, text=True)
    assert asking.stdout is not None
    assert asking.stdout.readline() == "ready\n"
    asking.send_signal(signal.SIGTERM)
    assert asking.communicate(timeout=20) == ("cleaned up\n", "")
    assert asking.returncode == 128 + signal.SIGTERM


def test_a_signal_that_is_ignored_stays_so(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As nohup asks for; and those that are handled here are let go of afterwards."""
    found = []

    def load(*_: str) -> ScriptedReasoner:
        found.extend(signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM))
        return ScriptedReasoner(looks_once)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert main(["ask", picture, "What?"], load=load) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert found[0] is signal.SIG_IGN
    assert found[1] is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("before", "command", "said"),
    [
        (["--model", "gpt-9"], ["ask", "a.png", "What?"], "got --model before ask; give it after ask"),
        (["--network"], ["ask", "a.png", "What?"], "got --network before ask; give it after ask"),
        (["-c"], ["ask", "a.png", "What?"], "got --continue before ask; ask has no such option"),
        (["--version"], ["doctor"], "got --version before doctor; doctor has no such option"),
        (["--data-dir", "d"], ["bench"], "got --data-dir before bench; bench has no such option"),
    ],
)
def test_an_option_before_a_command_is_refused(run: Ask, before: list[str], command: list[str], said: str) -> None:
    assert run(*before, *command) == (2, "", f"foveate: {said}\n")


def test_an_answer_survives_an_output_without_its_letters(picture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["ask", picture, "What?"], load=lambda *_: ScriptedReasoner([answer("Größe 7 µm")])) == 0
    assert output.buffer.getvalue() == rb"Gr\xf6\xdfe 7 \xb5m" + b"\n"  # type: ignore[attr-defined]


def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_2() -> None:
    code = "import sys; from foveate.cli import main; sys.exit(main(['--version']))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "foveate: the output cannot be written: No space left on device\n")


def test_an_answer_cannot_steer_the_terminal(run: Ask, picture: str) -> None:
    code, out, _ = run("ask", picture, "What?", script=lambda _: answer("\x1b]0;owned\x07 K7"))
    assert (code, out) == (0, "\ufffd]0;owned\ufffd K7\n")


def test_eval_reports_a_folder_and_writes_its_traces(run: Ask, picture: str, tmp_path: Path) -> None:
    item = {"id": "a", "image": "street.png", "question": "What does the label say?", "answer": "K7", "accept": []}
    (tmp_path / "answers.jsonl").write_text(json.dumps(item) + "\n")
    code, out, _ = run("eval", str(tmp_path), "--json", "--out", str(tmp_path / "out.jsonl"))
    report = json.loads(out)
    assert (code, report["accuracy"], report["n"]) == (0, 1.0, 1)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1
    assert "accuracy" in run("eval", str(tmp_path), "--limit", "1")[1]


def test_eval_exits_1_when_a_question_ends_in_an_error(run: Ask, picture: str, tmp_path: Path) -> None:
    item = {"id": "a", "image": "street.png", "question": "What?", "answer": "K7"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(item))

    def fails(_: Sequence[Message]) -> str:
        raise ModelError("nobody is there")

    code, out, err = run("eval", str(tmp_path), "--json", script=fails)
    assert (code, json.loads(out)["statuses"]) == (1, {"error": 1})
    assert err == "foveate: a ended in an error: nobody is there\n"


@pytest.mark.parametrize("arguments", [["no-suite"], ["nano-test", "--limit", "0"], ["nano-test", "--control", "grey"]])
def test_eval_with_bad_input_is_one_line_and_exit_code_2(run: Ask, arguments: list[str]) -> None:
    code, out, err = run("eval", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("foveate: ")
    assert err.count("\n") == 1


def test_eval_of_no_suite_is_refused_where_there_is_one(
    run: Ask, picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = {"id": "a", "image": "street.png", "question": "What?", "answer": "K7"}
    (tmp_path / "answers.jsonl").write_text(json.dumps(item))
    monkeypatch.chdir(tmp_path)
    wanted = "wanted nano-test, nano-validation or a folder with answers.jsonl"
    assert run("eval", "") == (2, "", f"foveate: got the suite '', {wanted}\n")
    assert run("eval", ".")[0] == 0


def test_a_conversation_takes_the_options_of_a_question(
    run: Ask, picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("What does the label say?\n"))
    code, out, _ = run("--data-dir", str(tmp_path), "--image", picture, "--max-turns", "0", "--no-tools")
    assert code == 0
    assert "turns: 0 of 0 used" in out
    assert run("--data-dir", str(tmp_path), "--temperature", "-1")[0] == 2


def test_a_conversation_is_gone_on_with_by_its_name(
    run: Ask, picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, questions = ["--data-dir", str(tmp_path / "data"), "--no-tools"], ["The first one?", "The second one?"]
    for question in questions:
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{question}\n"))
        assert run(*options, "--image", picture, script=lambda _: answer("K7"))[0] == 0
    _, first = Archive(Conversations(tmp_path / "data")).kept()
    for which, wanted in ((["--resume", first.thread[:8]], questions[:1]), (["-c"], questions[1:])):
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        code, out, _ = run(*options, *which)
        assert (code, [question for question in questions if question in out]) == (0, wanted)


def test_a_question_that_is_no_utf8_is_read_as_far_as_it_goes(
    run: Ask, picture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"What does caf\xe9 mean?\n"), encoding="utf-8"))
    code, out, err = run("--data-dir", str(tmp_path), "--image", picture, "--max-turns", "0", "--no-tools")
    assert (code, err) == (0, "")
    assert "turns: 0 of 0 used" in out


def test_tools_are_terse_for_a_model_that_has_learned_them() -> None:
    """As nano was trained; another model has them explained, and is told more by them."""
    for dialect, max_chars, results in ((NANO, 300, 1), (HERMES, 4000, 5)):
        _, python, search = tools_for(dialect, no_tools=False, network=False, unsafe=False)
        assert isinstance(python, PythonTool)
        assert python.max_chars == max_chars
        assert search.call({"query": "capital of Norway"}, []).text.count("\n") + 1 == results


def test_no_tools_and_yet_something_of_them_is_refused() -> None:
    for network, said in ((True, "--network"), (False, "--unsafe-code")):
        with pytest.raises(InputError, match=f"got --no-tools and {said}, wanted one of them"):
            check_tools(no_tools=True, network=network, unsafe=not network)


def test_what_needs_no_model_is_told_before_one_is_loaded(
    tmp_path: Path, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str, _device: str) -> ScriptedReasoner:
        raise AssertionError(f"{name} was loaded")

    for arguments, said in (
        (["-i", "typo.png"], "typo.png"),
        (["--no-tools", "--network"], "got --no-tools and --network"),
        (["ask", picture, "What?", "--no-tools", "--unsafe-code"], "got --no-tools and --unsafe-code"),
    ):
        options = [] if arguments[0] == "ask" else ["--data-dir", str(tmp_path / "data")]
        assert main([*options, *arguments], load=load) == 2
        assert said in capsys.readouterr().err


def test_code_without_a_boundary_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("foveate.tools.sandbox.SEARCH_PATH", "")  # no bubblewrap
    probe_result.forget()
    try:
        tools_for(NANO, no_tools=False, network=False, unsafe=False)
        assert tools_for(NANO, no_tools=True, network=False, unsafe=False) == ()
        assert capsys.readouterr().err == ""
        tools_for(NANO, no_tools=False, network=False, unsafe=True)
        assert capsys.readouterr().err.startswith("foveate: no sandbox works here")
    finally:
        probe_result.forget()


def test_train_with_bad_input_is_one_line_and_exit_code_2(run: Ask, tmp_path: Path) -> None:
    code, _, err = run("train", "tower", "--config", str(tmp_path / "missing.yaml"), "--out", str(tmp_path))
    assert code == 2
    assert err.startswith("foveate: ")
    assert "missing.yaml" in err


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_bench_wants_a_time(run: Ask, seconds: str) -> None:
    code, out, err = run("bench", "--seconds", seconds)
    assert (code, out) == (2, "")
    assert "got --seconds" in err


def test_help_names_the_exit_codes(run: Ask) -> None:
    for arguments in (["--help"], ["ask", "--help"]):
        code, out, _ = run(*arguments)
        assert code == 0
        assert " ".join(EXIT_CODES.split()) in " ".join(out.split())


def test_version(run: Ask) -> None:
    assert run("--version") == (0, f"foveate {foveate.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["ask", "missing.png", "What?"]])
def test_torch_and_langgraph_wait_until_they_are_needed(arguments: list[str]) -> None:
    code = (
        f"import sys; from foveate.cli import main; main({arguments}); "
        "print([name for name in ('torch', 'langgraph', 'rich', 'prompt_toolkit') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
