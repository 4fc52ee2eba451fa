"""Checkpoints by the names that they have on the Hugging Face hub: OWNER/NAME, or OWNER/NAME@REVISION.

Only such a name leads to a download, and only when no folder is called so; what lies in the library's cache already is
not fetched again. HF_HUB_OFFLINE, HF_HUB_CACHE, HF_TOKEN and the other settings of huggingface_hub hold.
"""

import re
from pathlib import Path
from typing import cast

from foveate.errors import CheckpointError, first_line
from foveate.extras import from_extra
from foveate.models.files import ADAPTERS
from foveate.paths import expanded, is_folder

NANO = "nano"
"""The model that ships with the package."""
FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "tiktoken.model")
"""What is fetched, and from no folder inside: never code, never a pickle."""
FIRST = ("config.json", ADAPTERS)
"""What is fetched first: they tell whether the rest can be used."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def is_hub_name(name: str) -> bool:
    """Whether a name means a model of the hub: of its form, and without a folder that has its owner's name."""
    owner = name.partition("/")[0]
    return bool(NAME.fullmatch(name)) and not is_folder(owner)


def checkpoint_folder(name: str | Path) -> Path:
    """The folder that a name means: the package's own for "nano", one that is fetched when the name is of the hub.

    Raises CheckpointError when it cannot be fetched, ConfigError when huggingface_hub is not installed.
    """
    if str(name) == NANO:
        from foveate.models.checkpoint import nano_path

        return nano_path()
    if not is_hub_name(str(name)):
        return expanded(name)
    with from_extra("hub", "huggingface_hub, which fetches models by their names,"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    from foveate.models.checkpoint import check_family

    repo, _, revision = str(name).partition("@")
    http = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)  # OSError and what the HTTP library raises
    failures: tuple[type[Exception], ...] = (ValueError, *http)
    try:
        for files in (FIRST, FILES):
            fetched = snapshot_download(
                repo, revision=revision or None, allow_patterns=list(files), ignore_patterns=["*/*"]
            )
            check_family(Path(fetched))
        return Path(fetched)
    except failures as error:
        raise CheckpointError(
            f"no folder is called {name}, and the model {name} of the hub cannot be read ({first_line(error)}); "
            "check the name and the network, or give a folder that holds the checkpoint"
        ) from error
