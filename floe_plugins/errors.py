"""The errors that Floe shows to its users.

Each message is one sentence: what was wrong, its value, and what is accepted. The command line
prints it without a traceback.
"""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class FloeError(Exception):
    """Base of all errors that users see."""


class ConfigError(FloeError, ValueError):
    """A configuration value is wrong; the message names the key and what it accepts."""


class ModelError(FloeError):
    """A model name cannot be resolved, or its checkpoint cannot be built or is damaged."""


class PluginError(FloeError):
    """A plugin does not load, or the manager refuses what it registers; names the plugin."""
