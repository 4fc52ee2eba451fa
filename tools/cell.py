"""One cell of code: what is asked of a Jupyter kernel, and what is taken from its messages.

The messages come from code that nobody trusts: only text and PNG are read, every part has a cap, and a picture is
opened like a stranger's file.
"""

import ast
import base64
import re
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from foveate.errors import ImageError
from foveate.pictures import PNG_SIGNATURE, open_picture

MAX_OUTPUT_CHARS = 200_000
MAX_IMAGES = 8
MAX_IMAGE_PIXELS = 16_000_000
CUT_MARK = "[output cut here]"
"""What kernel and host write where they stopped taking output."""
ARITHMETIC = frozenset(
    "abs bool dict divmod enumerate float int len list max min pow print range reversed round set sorted str sum tuple "
    "zip".split()
)
"""Functions of Python's own that read no file."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def only_calculates(code: str) -> bool:
    """Whether a cell can open no file: it imports nothing, reaches into nothing and calls arithmetic alone."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a command of IPython's, or nothing that runs
        return False
    names = [node for node in nodes if isinstance(node, ast.Name)]
    own = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    return (
        own.isdisjoint(ARITHMETIC)
        and all(name.id in ARITHMETIC or name.id in own for name in names)
        and all(isinstance(function, ast.Name) and function.id in ARITHMETIC for function in called)
        and not any(isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute) for node in nodes)
    )


@dataclass(kw_only=True)
class CellOutput:
    """What one cell has said."""

    text: str = ""
    """Standard output and error together, in order, then the value of the last expression."""
    error: str = ""
    """Name and message of the exception, empty when there was none."""
    traceback: str = ""
    images: list[Image.Image] = field(default_factory=list)
    """The first MAX_IMAGES pictures that it showed."""
    num_images: int = 0
    """How many it showed in all."""

    @property
    def truncated(self) -> bool:
        """Whether text or pictures were left out."""
        return CUT_MARK in self.text or self.num_images > len(self.images)

    def write(self, text: str) -> None:
        """Add text up to the cap; what is left out is marked once."""
        room = MAX_OUTPUT_CHARS + len(CUT_MARK) + 2 - len(self.text)
        if len(text) <= room:
            self.text += text
        elif CUT_MARK not in self.text:
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
        is_kept = len(output.images) < MAX_IMAGES  # pictures beyond are counted, not opened
        try:
            image = png_of(bundle.get("image/png")) if is_kept else None
        except ImageError as error:
            output.write(f"[a picture is not shown: {error}]\n")
            image = None
        if image is not None:
            output.images.append(image)
        if image is not None or (not is_kept and "image/png" in bundle):
            output.num_images += 1
        elif bundle.get("text/plain"):
            output.write(str(bundle["text/plain"]) + "\n")


def png_of(encoded: object) -> Image.Image | None:
    """The picture in base64, or None when it is no PNG. Raises ImageError for one that may not be opened."""
    try:
        data = base64.b64decode(encoded, validate=False) if isinstance(encoded, str) else b""
    except ValueError:
        return None
    return open_picture(data, max_pixels=MAX_IMAGE_PIXELS) if data.startswith(PNG_SIGNATURE) else None
