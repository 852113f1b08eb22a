"""`floe-llm schema`: prints the JSON Schema of a configuration, for editors.

A package offers one with an entry point in the group `floe_llm.schemas`, whose value is a function
that returns the schema. It is imported when its schema is requested.
"""

import argparse
from importlib import metadata

from floe_plugins.commands.output import add_json_option, print_json

GROUP = "floe_llm.schemas"
"""The entry-point group."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "schema",
        help="print the JSON Schema of a configuration",
        description="Print the JSON Schema (2020-12) of a configuration, with which an editor "
        "checks a file and shows what each key means.",
    )
    parser.add_argument(
        "name",
        choices=sorted(metadata.entry_points(group=GROUP).names),
        help="whose configuration",
    )
    add_json_option(parser)
    parser.set_defaults(run=_print, extras=("federated", "fusion"))


def _print(arguments: argparse.Namespace) -> int:
    # The schema is JSON with and without --json.
    entry_point = next(iter(metadata.entry_points(group=GROUP, name=arguments.name)))
    print_json(entry_point.load()())
    return 0
