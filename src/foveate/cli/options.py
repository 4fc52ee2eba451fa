"""Options that several commands share."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.agent.budget import Budget
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.models.reasoner import Dialect
    from foveate.tools.tool import Tool


def checked_temperature(value: float) -> float:
    """The temperature itself; InputError for one that nothing can be drawn with."""
    if not 0 <= value < math.inf:
        raise InputError(f"got --temperature {value}, wanted 0 or more")
    return value


USUAL = Budget()
MODEL_HELP = (
    "A checkpoint folder, OWNER/NAME of the hub (fetched), or nano; DIR:int8 and DIR:nf4 round its weights, "
    "transformers:DIR runs any family, http://HOST/v1#NAME asks an endpoint."
)
ModelOption = Annotated[str, typer.Option("--model", "-m", metavar="PATH|URL|nano", help=MODEL_HELP)]
DEVICE_HELP = "cpu, cuda, or auto: a GPU where torch finds one; nano and rounded weights stay on the processor."
DeviceOption = Annotated[str, typer.Option("--device", metavar="NAME", help=DEVICE_HELP)]
NetworkOption = Annotated[bool, typer.Option("--network", help="Search the web in place of the local index.")]
UnsafeOption = Annotated[bool, typer.Option("--unsafe-code", help="Run code also where no sandbox works.")]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="Makes sampling repeatable.")]
TurnsOption = Annotated[int, typer.Option("--max-turns", metavar="N", help="Most turns of the model.")]
TokensOption = Annotated[int, typer.Option("--max-tokens", metavar="N", help="Most tokens that the model writes.")]
ImageTokensOption = Annotated[int, typer.Option("--max-image-tokens", metavar="N", help="Most tokens of all images.")]
SecondsOption = Annotated[float, typer.Option("--max-seconds", metavar="S", help="Most time.")]
TemperatureOption = Annotated[
    float,
    typer.Option("--temperature", "-t", metavar="T", help="0 takes the likeliest token.", callback=checked_temperature),
]
NoToolsOption = Annotated[bool, typer.Option("--no-tools", help="Answer from the first view alone.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Where conversations are kept (default: the user's data folder)."),
]


def budget_of(*, turns: int, tokens: int, image_tokens: int, seconds: float) -> Budget:
    """What --max-turns, --max-tokens, --max-image-tokens and --max-seconds allow; ConfigError for less than 0."""
    return Budget(turns=turns, policy_tokens=tokens, image_tokens=image_tokens, seconds=seconds)


def check_tools(*, no_tools: bool, network: bool, unsafe: bool) -> None:
    """Raises InputError where no tools are wanted, and yet something of them."""
    if no_tools and (network or unsafe):
        raise InputError(f"got --no-tools and {'--network' if network else '--unsafe-code'}, wanted one of them")


def tools_for(dialect: "Dialect", *, no_tools: bool, network: bool, unsafe: bool) -> "tuple[Tool, ...]":
    """The tools of a run: zoom, python and search, or none; says on stderr when code will run without a boundary."""
    if no_tools:
        return ()
    from foveate.agent.arguments import usual_tools
    from foveate.tools import sandbox_tier

    if unsafe and sandbox_tier() is None:
        print("foveate: no sandbox works here, code that the model writes runs with your rights", file=sys.stderr)
    return usual_tools(dialect, network=network, unsafe=unsafe)
