"""The command `floe-llm`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata

from floe_plugins.commands import check, models, plugins
from floe_plugins.commands.installed import add_installed
from floe_plugins.errors import FloeError
from floe_plugins.extras import brings, install_command

_ERROR = 2
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit code: what the command returns, 2 after an error, 130 after an interruption.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except FloeError as error:
        print(f"floe-llm: {error}", file=sys.stderr)
        return _ERROR
    except ModuleNotFoundError as error:
        extra = _extra_of(arguments, error)
        if extra is None:
            raise
        print(
            f"floe-llm: This command needs {error.name}, which is not installed: it comes with "
            f"Floe's extra {extra!r}, {install_command(extra)}.",
            file=sys.stderr,
        )
        return _ERROR
    except KeyboardInterrupt:
        print("floe-llm: interrupted.", file=sys.stderr)
        return _INTERRUPTED


def _extra_of(arguments: argparse.Namespace, error: ModuleNotFoundError) -> str | None:
    """Return the first of a command's extras that brings a module, or None."""
    extras: Sequence[str] = getattr(arguments, "extras", ())
    return next((extra for extra in extras if error.name and brings(extra, error.name)), None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="floe-llm",
        description="Models, privacy checks, federated runs and plugins of Floe.",
        epilog="Exit codes: 0 done, 1 see `check --help`, 2 error.",
    )
    parser.add_argument(
        "--version", action="version", version=f"floe-llm {metadata.version('floe-llm')}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (models, check, plugins):
        group.add_to(commands)
    add_installed(commands)
    return parser
