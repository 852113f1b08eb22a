"""`floe-llm plugins`: lists the loaded plugins and what they register."""

import argparse
from dataclasses import asdict

from floe_plugins.commands.output import add_json_option, print_json, print_table
from floe_plugins.manager import PLUGINS_VARIABLE, plugin_manager

_PREFIX = "floe_register_"


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "plugins",
        help="list the loaded plugins and what they register",
        description="List the loaded plugins and what they register.",
        epilog=f"{PLUGINS_VARIABLE} chooses the plugins to load: names of installed ones or dotted "
        "paths, separated by commas; 'none' for none.",
    )
    parser.add_argument(
        "--plugin",
        metavar="PATH",
        action="append",
        default=[],
        help="also load package.module or package.module:attribute; may be repeated",
    )
    add_json_option(parser)
    parser.set_defaults(run=_list)


def _list(arguments: argparse.Namespace) -> int:
    plugins = plugin_manager(arguments.plugin).plugins
    if arguments.json:
        print_json([asdict(plugin) for plugin in plugins])
        return 0
    rows = [
        (
            plugin.name,
            plugin.version or "-",
            plugin.distribution or "-",
            hook.removeprefix(_PREFIX),
            " ".join(plugin.registers.get(hook, ())) or "-",
        )
        for plugin in plugins
        # A plugin without hooks has a line too.
        for hook in plugin.hooks or ("-",)
    ]
    print_table(("PLUGIN", "VERSION", "DISTRIBUTION", "HOOK", "REGISTERS"), rows)
    return 0
