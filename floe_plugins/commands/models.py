"""`floe-llm model`: lists and exports models."""

import argparse

from floe_plugins.commands.output import add_json_option, print_json, print_table
from floe_plugins.manager import plugin_manager
from floe_plugins.models import export


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    group = commands.add_parser("model", help="list and export models").add_subparsers(
        required=True, metavar="ACTION"
    )

    listing = group.add_parser("list", help="list the models that need no hub")
    add_json_option(listing)
    listing.set_defaults(run=_list)

    exporting = group.add_parser(
        "export",
        help="write a model as a Hugging Face checkpoint folder",
        description="Write a model as a Hugging Face checkpoint folder, complete or not at all.",
    )
    exporting.add_argument(
        "name",
        metavar="NAME",
        help="SOURCE:NAME as in `floe-llm model list`, a GGUF file, a folder, or the id of a model "
        "on the hub",
    )
    exporting.add_argument("directory", metavar="DIR", help="a new or empty folder")
    add_json_option(exporting)
    exporting.set_defaults(run=_export, extras=("federated", "embedded"))


def _list(arguments: argparse.Namespace) -> int:
    models = [
        {"name": f"{source.name}:{reference}", "plugin": source.plugin}
        for source in plugin_manager().model_sources.values()
        for reference in source.value.references()
    ]
    if arguments.json:
        print_json(models)
    else:
        print_table(("NAME", "PLUGIN"), [(model["name"], model["plugin"]) for model in models])
    return 0


def _export(arguments: argparse.Namespace) -> int:
    folder = export(arguments.name, arguments.directory)
    if arguments.json:
        print_json({"name": arguments.name, "folder": str(folder)})
    else:
        print(folder)
    return 0
