"""`floe-llm adapter`: names the adapter of a run that serves a text best."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from floe_plugins.commands.output import add_json_option, print_json
from floe_plugins.errors import FloeError


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "adapter",
        help="name the adapter of a federated run for a text",
        description="Name the cluster adapter of a federated run that serves a text best: the one "
        "whose cluster's centroid is nearest to the text's embedding. Behind it stand its folder "
        "and the route that asks it in the form that it was trained in.",
    )
    parser.add_argument("folder", metavar="RUN_DIR", help="the run's output folder")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("text", metavar="TEXT", nargs="?", help="the text; else standard input")
    source.add_argument("--file", metavar="FILE", help="a text file in UTF-8")
    add_json_option(parser)
    parser.set_defaults(run=_adapter, extras=("federated",))


def _adapter(arguments: argparse.Namespace) -> int:
    text = arguments.text if arguments.text is not None else _read(arguments.file)

    from flower_strategy.adapter_choice import adapter_for_text

    choice = adapter_for_text(arguments.folder, text)
    if arguments.json:
        told = {"name": choice.name, "path": str(choice.path)}
        told |= {"form": choice.form, "route": choice.route}
        print_json({**told, "cosines": dict(choice.cosines)})
    else:
        print(f"{choice.name}  {choice.path}  {choice.route}")
    return 0


def _read(file: str | None) -> str:
    name = file or "Standard input"
    try:
        content = sys.stdin.buffer.read() if file is None else Path(file).read_bytes()
        return content.decode("utf-8")
    except OSError as error:
        raise FloeError(f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FloeError(f"{name} is no text in UTF-8: {error.reason}.") from error
