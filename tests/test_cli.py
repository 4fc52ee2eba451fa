"""The command line from its arguments to its exit code, with a scripted model in place of nano.

Proved: each documented exit code; the shape of --json; one line on stderr, and no traceback, for everything that a user
can get wrong; text from a model cannot steer the terminal; nothing heavy is imported before it is needed.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import PIPE

import pytest
from looking import looks_once
from PIL import Image
from scripted import ScriptedReasoner, answer

import foveate
from foveate.cli import EXIT_CODES, main
from foveate.cli.reasoner import load_reasoner
from foveate.models.reasoner import Message

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
        code = main(arguments, load=lambda _: ScriptedReasoner(script, seconds_per_token=pause_s))
        out, err = capsys.readouterr()
        return code, out, err

    return with_script


def test_the_answer_is_on_stdout_alone(run: Ask, picture: str) -> None:
    assert run("ask", picture, "What does the label say?") == (0, "K7\n", "")


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


def test_save_trace_writes_the_page(run: Ask, picture: str, tmp_path: Path) -> None:
    code, out, err = run("ask", picture, "What does the label say?", "--save-trace", str(tmp_path / "trace"))
    assert (code, out) == (0, "K7\n")
    assert f"trace: {tmp_path / 'trace' / 'trace.html'}" in err
    assert json.loads((tmp_path / "trace" / "trace.json").read_text())["answer"] == "K7"


def test_without_tools_a_call_fails_and_the_model_is_told(run: Ask, picture: str) -> None:
    _, out, _ = run("ask", picture, "What does the label say?", "--json", "--no-tools")
    assert [step["failed"] for step in json.loads(out)["steps"] if step["kind"] == "tool"] == [True]


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
        (["PICTURE", "What?", "--save-trace", "PICTURE"], "which is a file"),
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


def test_an_unknown_model_is_one_line_and_exit_code_2(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", picture, "What?", "--model", "gpt-9"], load=load_reasoner) == 2
    wanted = "wanted nano, a folder that holds a checkpoint, OWNER/NAME of the hub, or http://HOST/v1#NAME"
    assert capsys.readouterr().err == f"foveate: got the model 'gpt-9', {wanted}\n"


def test_a_huge_picture_is_refused_before_a_model_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("1", (13000, 13000)).save(tmp_path / "huge.png")

    def never(_: str) -> ScriptedReasoner:
        raise AssertionError("the model was loaded")

    assert main(["ask", str(tmp_path / "huge.png"), "What?"], load=never) == 2
    assert "huge.png" in capsys.readouterr().err


def test_a_bug_is_one_line_and_exit_code_70(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_: str) -> ScriptedReasoner:
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
        "load=lambda _: ScriptedReasoner(look, seconds_per_token=0.05)))"
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


@pytest.mark.parametrize("arguments", [["no-suite"], ["nano-test", "--limit", "0"], ["nano-test", "--control", "grey"]])
def test_eval_with_bad_input_is_one_line_and_exit_code_2(run: Ask, arguments: list[str]) -> None:
    code, out, err = run("eval", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("foveate: ")
    assert err.count("\n") == 1


def test_train_with_bad_input_is_one_line_and_exit_code_2(run: Ask, tmp_path: Path) -> None:
    code, _, err = run("train", "tower", "--config", str(tmp_path / "missing.yaml"), "--out", str(tmp_path))
    assert code == 2
    assert err.startswith("foveate: ")
    assert "missing.yaml" in err


def test_help_names_the_exit_codes(run: Ask) -> None:
    for arguments in (["--help"], ["ask", "--help"]):
        code, out, _ = run(*arguments)
        assert code == 0
        assert " ".join(EXIT_CODES.split()) in " ".join(out.split())


def test_version(run: Ask) -> None:
    assert run("--version") == (0, f"foveate {foveate.__version__}\n", "")


def test_the_face_of_the_package() -> None:
    assert foveate.__all__ == ["Agent", "Answer", "Thinker", "__version__"]
    assert foveate.Agent.__module__ == "foveate.agent.agent"
    assert foveate.Answer.__module__ == "foveate.agent.records"
    with pytest.raises(AttributeError, match="no attribute 'Agnet'"):
        _ = foveate.Agnet


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["ask", "missing.png", "What?"]])
def test_torch_and_langgraph_wait_until_they_are_needed(arguments: list[str]) -> None:
    code = (
        f"import sys; from foveate.cli import main; main({arguments}); "
        "print([name for name in ('torch', 'langgraph', 'rich', 'prompt_toolkit') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
