"""`floe-llm report`: writes the page that shows a run."""

from __future__ import annotations

import argparse

from floe_plugins.commands.output import add_json_option, print_json


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="show a federated run as one HTML page",
        description="Write one self-contained HTML page about a federated run: losses, ranks, "
        "latencies, task embeddings, communication, discarded energy, refused replies.",
    )
    parser.add_argument("folder", metavar="RUN_DIR", help="the run's output folder")
    parser.add_argument(
        "--output", metavar="FILE", help="the page (default: report.html in RUN_DIR)"
    )
    add_json_option(parser)
    parser.set_defaults(run=_report, extras=("federated",))


def _report(arguments: argparse.Namespace) -> int:
    from flower_strategy.report.page import write_report

    written = write_report(arguments.folder, arguments.output)
    if arguments.json:
        print_json(written)
    else:
        print(written["page"])
    return 0
