"""The command `floe-llm`, with the commands that other packages add to it.

A package adds a command with an entry point in the group `floe_llm.commands`, whose value is a
module with ``add_to(commands)``. Every call of `floe-llm` imports the module, so heavy imports
belong in the function that runs the command.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from floe_plugins.commands import check, doctor, models, plugins, schema, slm
from floe_plugins.errors import FloeError, PluginError
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
    for group in (models, check, doctor, plugins, schema, slm):
        group.add_to(commands)
    add_installed(commands)
    return parser


GROUP = "floe_llm.commands"
"""The entry-point group."""


def add_installed(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the installed commands to the parser, sorted by name.

    A command that cannot be loaded is listed with the reason, and prints it when called.
    """
    for entry_point in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            _add(entry_point, commands)
        # The code of any installed package runs here, and one that fails must not take `floe-llm`
        # away from its user.
        except Exception as error:  # noqa: BLE001
            _add_broken(entry_point, _sentence(error), commands)


def _add(
    entry_point: metadata.EntryPoint,
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    module = entry_point.load()
    # Tried on a throw-away parser: a module that fails halfway leaves nothing behind.
    trial = argparse.ArgumentParser().add_subparsers()
    module.add_to(trial)
    taken = sorted(set(trial.choices) & set(commands.choices))
    if taken:
        raise PluginError(f"the name {taken[0]!r} is taken")
    module.add_to(commands)


def _add_broken(
    entry_point: metadata.EntryPoint,
    reason: str,
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    owner = entry_point.dist.name if entry_point.dist else entry_point.module
    name = entry_point.name
    if name in commands.choices:
        name = f"{owner}:{name}"

    def fail(_: argparse.Namespace) -> NoReturn:
        raise PluginError(f"The command {name!r} of {owner} cannot be loaded: {reason}.")

    parser = commands.add_parser(
        name,
        help=f"cannot be loaded: {reason}".replace("%", "%%"),
        # No argument starts with this character, so all are accepted, and the reason is printed.
        prefix_chars="\0",
        add_help=False,
    )
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(run=fail)


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    said = lines[0].rstrip(".") if lines else "it gives no reason"
    return said if isinstance(error, PluginError) else f"{type(error).__name__}: {said}"
