"""Text from outside made fit to be shown.

What a model, a tool, a file name or a web page wrote may hold escape sequences that move the cursor, set the window's
title or write the clipboard, and direction marks that reorder what is read. Each such character is shown as a
replacement character, so that nothing acts and nothing vanishes.
"""

import re

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, embeddings, overrides, isolates
    "\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff]"  # separators, byte order mark, annotations, lone surrogates
)


def printable(text: str) -> str:
    """`text` with line ends as line feeds and every steering character replaced by U+FFFD."""
    return _STEERING.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = 160) -> str:
    """`text` on one line of at most `limit` characters, cut with an ellipsis."""
    line = " ".join(printable(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
