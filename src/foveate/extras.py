"""Packages that an extra of Foveate's brings, and that may be missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from foveate.errors import ConfigError


@contextmanager
def from_extra(extra: str, package: str) -> Iterator[None]:
    """For the import inside: what is not installed becomes an error that says how to install it.

    with from_extra("video", "PyAV"):
        import av

    Raises ConfigError.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{package} is not installed: pip install 'foveate[{extra}]'") from error
