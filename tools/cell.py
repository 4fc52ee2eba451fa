"""One cell of code: what is asked of a Jupyter kernel, and what is taken from its messages.

The messages come from code that nobody trusts: only text and PNG are read, every part has a cap, and a picture is
opened like a stranger's file.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from foveate.errors import ImageError
from foveate.tools.pictures import open_picture

MAX_OUTPUT_CHARS = 200_000
MAX_IMAGES = 8
MAX_IMAGE_PIXELS = 16_000_000
CUT_MARK = "[output cut here]"
"""What kernel and host write where they stopped taking output."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(kw_only=True)
class CellOutput:
    """What one cell has said."""

    text: str = ""
    """Standard output and error together, in order, then the value of the last expression."""
    error: str = ""
    """Name and message of the exception, empty when there was none."""
    traceback: str = ""
    images: list[Image.Image] = field(default_factory=list)

    @property
    def truncated(self) -> bool:
        """Whether output was left out."""
        return CUT_MARK in self.text

    def write(self, text: str) -> None:
        """Add text up to the cap; what is left out is marked once."""
        room = MAX_OUTPUT_CHARS + len(CUT_MARK) + 2 - len(self.text)
        if len(text) <= room:
            self.text += text
        elif not self.truncated:
            self.text += f"{text[:room]}\n{CUT_MARK}\n"


def execute_content(code: str) -> dict[str, Any]:
    """Content of an execute_request that never asks for input."""
    return {
        "code": code,
        "silent": False,
        "store_history": False,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }


def take(message: dict[str, Any], output: CellOutput) -> None:
    """Add an iopub message to the output of its cell; only text and PNG are taken."""
    kind, content = message.get("msg_type"), message["content"]
    if kind == "stream":
        output.write(str(content.get("text", "")))
    elif kind == "error":
        output.error = ANSI.sub("", f"{content.get('ename')}: {content.get('evalue')}")[:2000]
        lines = content.get("traceback")
        output.traceback = ANSI.sub("", "\n".join(map(str, lines)) if isinstance(lines, list) else "")[:20_000]
    elif kind in ("execute_result", "display_data"):
        data = content.get("data")
        bundle = data if isinstance(data, dict) else {}
        image = png_of(bundle.get("image/png")) if len(output.images) < MAX_IMAGES else None
        if image is not None:
            output.images.append(image)
        elif bundle.get("text/plain"):
            output.write(str(bundle["text/plain"]) + "\n")


def png_of(encoded: object) -> Image.Image | None:
    """The picture in base64, or None when it is none that may be opened."""
    try:
        data = base64.b64decode(encoded, validate=False) if isinstance(encoded, str) else b""
        return open_picture(data, max_pixels=MAX_IMAGE_PIXELS) if data.startswith(b"\x89PNG") else None
    except (ImageError, ValueError):
        return None
