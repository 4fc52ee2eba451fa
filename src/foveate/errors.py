"""The tree of exceptions.

    FoveateError
    ├── InputError            what the caller gave cannot be used (the CLI prints it in one line and exits with 2)
    │   ├── ImageError        a picture is missing, broken, too large or of a refused format
    │   └── ConfigError       a configuration names an unknown key or holds a wrong value
    ├── ModelError            the reasoner cannot be loaded or failed while it sampled
    │   └── CheckpointError   files of a checkpoint are missing, unsafe or do not fit the configuration
    ├── ParseError            the model's text is neither a call nor an answer (told back to the model)
    └── ToolError             a tool refused or failed (an observation for the model, never a crash)
        ├── ToolArgumentError     the arguments do not fit the tool's schema or the valid range
        ├── ToolTimeoutError      the tool ran past its time
        ├── KernelLostError       the code kernel died; the next call gets a new one
        ├── SandboxUnavailableError   no sandbox tier works on this machine
        └── SearchError           the search failed (an empty result is not a failure)

A message names the value got, the value wanted and the fix.
"""


class FoveateError(Exception):
    """Root of every error that Foveate raises on purpose."""


class InputError(FoveateError):
    """What the caller gave cannot be used."""


class ImageError(InputError):
    """A picture is missing, broken, too large or of a refused format."""


class ConfigError(InputError):
    """A configuration names an unknown key or holds a wrong value."""


class ModelError(FoveateError):
    """The reasoner cannot be loaded or failed while it sampled."""


class CheckpointError(ModelError):
    """Files of a checkpoint are missing, unsafe or do not fit the configuration."""


class ParseError(FoveateError):
    """The model's text is neither a well-formed call nor an answer."""


class ToolError(FoveateError):
    """A tool refused or failed; the model sees the message as an observation."""


class ToolArgumentError(ToolError):
    """The arguments do not fit the tool's schema or the valid range."""


class ToolTimeoutError(ToolError):
    """The tool ran past its time."""


class KernelLostError(ToolError):
    """The code kernel died; the next call gets a new one."""


class SandboxUnavailableError(ToolError):
    """No sandbox tier works on this machine."""


class SearchError(ToolError):
    """The search failed; an empty result is not a failure."""


def first_line(error: BaseException) -> str:
    """The first line of what an error of somebody else's says; its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def named_line(error: BaseException) -> str:
    """The same behind the error's name."""
    return f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__


def shown(value: object) -> str:
    """A value in an error message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
