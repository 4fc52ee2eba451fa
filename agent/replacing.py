"""A file that is whole or as it was before: what is killed or refused on the way leaves no half one."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """The name beside `path` to write to inside the block; it becomes `path` with the block's end, unless that raises.

    Processes and threads that write the same file at once do not meet: the last one to end stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield part
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()
