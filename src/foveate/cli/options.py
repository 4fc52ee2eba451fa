"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foveate.agent.budget import Budget

if TYPE_CHECKING:
    from foveate.tools.tool import Tool

USUAL = Budget()
MODEL_HELP = (
    "A checkpoint folder, OWNER/NAME of the hub (fetched), or nano; DIR:int8 rounds its weights, transformers:DIR runs "
    "any family, http://HOST/v1#NAME asks an endpoint."
)
ModelOption = Annotated[str, typer.Option("--model", "-m", metavar="PATH|URL|nano", help=MODEL_HELP)]
NetworkOption = Annotated[bool, typer.Option("--network", help="Let the search tool use the web.")]
UnsafeOption = Annotated[bool, typer.Option("--unsafe-code", help="Run code also where no sandbox works.")]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="Makes sampling repeatable.")]
TurnsOption = Annotated[int, typer.Option("--max-turns", metavar="N", help="Most turns of the model.")]
TokensOption = Annotated[int, typer.Option("--max-tokens", metavar="N", help="Most tokens that the model writes.")]
ImageTokensOption = Annotated[int, typer.Option("--max-image-tokens", metavar="N", help="Most tokens of all images.")]
SecondsOption = Annotated[float, typer.Option("--max-seconds", metavar="S", help="Most time.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Where conversations are kept (default: the user's data folder)."),
]


def tools_for(*, no_tools: bool, network: bool, unsafe: bool) -> "tuple[Tool, ...]":
    """The tools of a run: zoom, python and search, or none."""
    if no_tools:
        return ()
    from foveate.tools import default_tools

    return default_tools(network=network, unsafe=unsafe)
