"""What the agent may do besides thinking: zoom into an image, run code, look a fact up.

A tool gets plain values and images and hands back text and at most one image; it knows nothing of models or runs.
"""

from foveate.pictures import open_picture, sha256_of_pixels
from foveate.tools.python import PythonTool
from foveate.tools.sandbox import sandbox_tier
from foveate.tools.search import search_local, search_tool
from foveate.tools.tool import Box, Tool, ToolCall, ToolResult, perform
from foveate.tools.zoom import check_box, zoom, zoom_tool

__all__ = [
    "Box",
    "PythonTool",
    "Tool",
    "ToolCall",
    "ToolResult",
    "check_box",
    "default_tools",
    "open_picture",
    "perform",
    "sandbox_tier",
    "search_local",
    "search_tool",
    "sha256_of_pixels",
    "zoom",
    "zoom_tool",
]


def default_tools(*, network: bool = False, unsafe: bool = False, terse: bool = True) -> tuple[Tool, ...]:
    """zoom, python and search.

    network: search the web instead of the local index. unsafe: run code without a boundary where no sandbox works.
    terse: 300 characters of output and one search result, as nano was trained; else 4,000 characters and 5 results.
    """
    max_chars, results = (300, 1) if terse else (4000, 5)
    search = search_tool(network=network, limit=results, max_chars=max_chars)
    return zoom_tool(), PythonTool(unsafe=unsafe, max_chars=max_chars), search
