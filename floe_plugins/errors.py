"""The errors that Floe shows to its users.

Every one of them carries a single clear sentence: what was wrong, with its value, and what is
accepted. The command line prints that sentence without a traceback.
"""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class FloeError(Exception):
    """Base of every error that is meant for a user's eyes."""


class ConfigError(FloeError, ValueError):
    """A configuration value is wrong; the message names the key and what it accepts."""


class ModelError(FloeError):
    """A model name cannot be resolved, or its checkpoint cannot be made or trusted."""


class PluginError(FloeError):
    """A plugin does not load, or registers what the manager refuses; names the plugin."""
