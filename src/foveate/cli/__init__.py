"""The command line: `foveate ask`, `eval`, `train`, `bench`, `doctor`, and a conversation when no command is named.

`main` is the one place that turns exceptions into a line on stderr and an exit code, and the one place in Foveate that
reads the environment (but for FOVEATE_ISA, which the extension reads when it loads). Commands live in a file each and
import what they need when they run, so that ``--help`` loads neither torch nor langgraph.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from foveate.cli.ask import ask
from foveate.cli.bench import bench
from foveate.cli.chat import chat
from foveate.cli.diagnose import doctor
from foveate.cli.evaluate import evaluate
from foveate.cli.options import MODEL_HELP, DataDirOption, NetworkOption, UnsafeOption
from foveate.cli.pairs import pairs
from foveate.cli.reasoner import LoadReasoner, load_reasoner
from foveate.cli.rollout import rollout
from foveate.cli.trace import trace
from foveate.cli.train import train
from foveate.errors import FoveateError

EXIT_CODES = """
Exit codes: 0 answered; 1 ended without an answer or out of budget; 2 bad input or model; 130 interrupted; 70 a bug.
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
    resume: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")] = False,
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", metavar="PATH", help="A picture to start with.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", metavar="PATH|URL|nano", help=MODEL_HELP)] = None,
    network: NetworkOption = False,
    unsafe_code: UnsafeOption = False,
    data_dir: DataDirOption = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> int:
    """Reasoning agents that look again: think, zoom, compute, look up, answer with the evidence.

    Without a command: a conversation about pictures in the terminal.
    """
    if context.invoked_subcommand is not None:
        return 0
    if version:
        from foveate import __version__

        print(f"foveate {__version__}")
        return 0
    return chat(
        context.obj,
        resume=resume,
        images=image or [],
        model=model,
        network=network,
        unsafe=unsafe_code,
        data_dir=data_dir,
    )


def main(arguments: Sequence[str] | None = None, *, load: LoadReasoner = load_reasoner) -> int:
    """Run one command and return its exit code; `load` makes the reasoner for ``--model`` (tests pass a script)."""
    debug = os.environ.get("FOVEATE_DEBUG", "") not in ("", "0")
    try:
        code = app(None if arguments is None else list(arguments), prog_name="foveate", standalone_mode=False, obj=load)
        return _complain("interrupted", 130) if code == 130 else int(code or 0)  # typer answers Ctrl-C with 130
    except (KeyboardInterrupt, Abort):
        return _complain("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
        return _complain(f"unexpected {type(error).__name__}: {error} (FOVEATE_DEBUG=1 shows where)", 70)


def _complain(message: str, code: int) -> int:
    from foveate.agent.plain import one_line

    print(f"foveate: {one_line(message, 2000)}", file=sys.stderr)
    return code
