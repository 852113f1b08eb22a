"""`floe-llm report`: writes the page that shows a run."""

from __future__ import annotations

import argparse
import sys

from floe_plugins.commands.output import add_json_option, print_json


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="show a federated run as one HTML page",
        description="Write one self-contained HTML page about a federated run: losses, ranks, "
        "latencies, time of devices, task embeddings, communication, discarded energy, refused "
        "replies.",
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
        # Standard output is the page alone, for a shell to open it.
        for kind, spent in written["figures"]["time"]["classes"].items():
            parts = ", ".join(f"{spent[p]:.1f} s {p}" for p in ("training", "transport", "idle"))
            idle = f"({spent['idle_share']:.0%})"
            print(f"{kind} ({spent['devices']}): {parts} {idle}", file=sys.stderr)
    return 0
