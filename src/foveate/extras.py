"""Packages that an extra of Foveate's brings, and that may be missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from foveate.errors import ConfigError


@contextmanager
def from_extra(extra: str, package: str) -> Iterator[None]:
    """For the import inside: what is not installed or cannot be imported becomes an error that says what to install.

    with from_extra("video", "PyAV"):
        import av

    Raises ConfigError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{package} is not installed: pip install 'foveate[{extra}]'") from error
    except ImportError as error:
        reason = f"{package} cannot be imported ({error})"
        raise ConfigError(f"{reason}: pip install --upgrade 'foveate[{extra}]'") from error
