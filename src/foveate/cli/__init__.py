"""The command line: a file for each command, and a conversation when none is named.

`main` is the one place that turns exceptions into a line on stderr and an exit code. The environment is read here and
nowhere else, but for FOVEATE_ISA, which the extension reads when it loads, OPENAI_API_KEY, which goes with the address
of an endpoint, and RAY_ADDRESS, which Ray reads and an error names. Commands live in a file each and import what they
need when they run, so that ``--help`` loads neither torch nor langgraph.
"""

import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup
from typer.exceptions import Abort, TyperException

from foveate.cli.ask import ask
from foveate.cli.bench import bench
from foveate.cli.chat import chat
from foveate.cli.diagnose import doctor
from foveate.cli.evaluate import evaluate
from foveate.cli.options import (
    MODEL_HELP,
    USUAL,
    DataDirOption,
    DeviceOption,
    ImageTokensOption,
    NetworkOption,
    NoToolsOption,
    SecondsOption,
    SeedOption,
    TemperatureOption,
    TokensOption,
    TurnsOption,
    UnsafeOption,
    budget_of,
)
from foveate.cli.pairs import pairs
from foveate.cli.reasoner import LoadReasoner, load_reasoner
from foveate.cli.rollout import rollout
from foveate.cli.signals import unwound_by_signals
from foveate.cli.trace import trace
from foveate.cli.train import train
from foveate.errors import FoveateError, InputError
from foveate.models.device import AUTO

EXIT_CODES = """
Exit codes: 0 done, a question answered; 1 ended without an answer or out of budget (eval: a question ended in an
error); 2 bad input, model or output; 130 interrupted, 143 by SIGTERM, 129 by SIGHUP (train saves a checkpoint and exits
with 0); 70 a bug.
FOVEATE_DEBUG=1 shows the traceback of an error.
"""

app = typer.Typer(
    name="foveate",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
app.command(epilog=EXIT_CODES)(ask)
app.command("eval", epilog=EXIT_CODES)(evaluate)
app.command(epilog=EXIT_CODES)(train)
app.command(epilog=EXIT_CODES)(rollout)
app.command(epilog=EXIT_CODES)(pairs)
app.command(epilog=EXIT_CODES)(trace)
app.command()(bench)
app.command()(doctor)


@app.callback(invoke_without_command=True)
def foveate(
    context: typer.Context,
    go_on: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="ID", help="Go on with this conversation; /list names them.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", metavar="PATH", help="A picture to start with.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="PATH|URL|nano", help=MODEL_HELP)] = None,
    device: DeviceOption = AUTO,
    max_turns: TurnsOption = USUAL.turns,
    max_tokens: TokensOption = USUAL.policy_tokens,
    max_image_tokens: ImageTokensOption = USUAL.image_tokens,
    max_seconds: SecondsOption = USUAL.seconds,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = None,
    network: NetworkOption = False,
    unsafe_code: UnsafeOption = False,
    no_tools: NoToolsOption = False,
    data_dir: DataDirOption = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> int:
    """Reasoning agents that look again: think, zoom, compute, look up, answer with the evidence.

    Without a command: a conversation about pictures in the terminal.
    """
    if context.invoked_subcommand is not None:
        _refuse_options_before(context.invoked_subcommand, context)
        return 0
    if version:
        from foveate import __version__

        print(f"foveate {__version__}")
        return 0
    return chat(
        context.obj,
        resume=go_on if resume is None else resume,
        images=image or [],
        model=model,
        device=device,
        network=network,
        unsafe=unsafe_code,
        data_dir=data_dir,
        budget=budget_of(turns=max_turns, tokens=max_tokens, image_tokens=max_image_tokens, seconds=max_seconds),
        temperature=temperature,
        seed=seed,
        no_tools=no_tools,
    )


def main(arguments: Sequence[str] | None = None, *, load: LoadReasoner = load_reasoner) -> int:
    """Run one command and return its exit code; `load` makes the reasoner for ``--model`` (tests pass a script).

    SIGTERM and SIGHUP raise SystemExit.
    """
    debug = os.environ.get("FOVEATE_DEBUG", "") not in ("", "0")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an answer may have letters that its encoding lacks
    if sys.stderr is None:  # closed by who called; printing to None would print to stdout
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of a photo with corrupt EXIF, which is shown all the same
    try:
        with unwound_by_signals():
            code = app(arguments, prog_name="foveate", standalone_mode=False, obj=load)
            print(end="", flush=True)
        return _complain("interrupted", 130) if code == 130 else int(code or 0)  # typer answers Ctrl-C with 130
    except (KeyboardInterrupt, Abort):
        return _complain("interrupted", 130)
    except BrokenPipeError:
        _output_is_lost()
        return 1
    except TyperException as error:
        return _complain(error.format_message(), 2)
    except FoveateError as error:
        if debug:
            raise
        return _complain(str(error), 2)
    except Exception as error:  # a bug still ends in one line; the traceback is one variable away
        if debug:
            raise
        if isinstance(error, OSError) and _output_is_lost():
            return _complain(f"the output cannot be written: {error.strerror}", 2)
        return _complain(f"unexpected {type(error).__name__}: {error} (FOVEATE_DEBUG=1 shows where)", 70)


def _refuse_options_before(command: str, context: typer.Context) -> None:
    """Raises InputError for an option of the conversation in front of a command, which would not hear of it."""
    assert isinstance(context.command, TyperGroup)
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            option = parameter.opts[0]
            taken = [name for known in context.command.commands[command].params for name in known.opts]
            fix = f"give it after {command}" if option in taken else f"{command} has no such option"
            raise InputError(f"got {option} before {command}; {fix}")


def _output_is_lost() -> bool:
    """Whether what has been printed cannot be written; nobody tries again then."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _complain(message: str, code: int) -> int:
    from foveate.agent.plain import one_line

    print(f"foveate: {one_line(message, 2000)}", file=sys.stderr)
    return code
