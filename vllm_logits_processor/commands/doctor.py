"""`floe-llm doctor`: checks versions, configuration, expert, gate and ports before a start."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

from floe_plugins.commands.output import add_json_option, print_json
from floe_plugins.extras import brings, install_command
from vllm_logits_processor.commands.doctor_lines import Line, Status, unknown
from vllm_logits_processor.config_file import read_config_file

_RED = 1
_COLOURS = {Status.GREEN: "\x1b[32m", Status.RED: "\x1b[31m", Status.UNKNOWN: "\x1b[33m"}


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="look over versions, configuration, expert, gate and ports",
        description="Look over what a server would start with, and ask the expert a few times. "
        "Each line is green, red or unknown; a red one says what to do.",
        epilog="Exit code: 0 if nothing is red, 1 if something is, 2 after an error.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help='the JSON file with the processor\'s configuration: what "config_file" names, or the '
        "value of --additional-config",
    )
    parser.add_argument(
        "--host",
        metavar="MODEL",
        help="the model that vLLM runs, as a folder, the id of a model on the hub, or "
        "embedded:NAME: also look over the pair of tokenizers",
    )
    add_json_option(parser)
    parser.set_defaults(run=_run, extras=("fusion", "embedded"))


def _run(arguments: argparse.Namespace) -> int:
    path = arguments.config
    values = None if path is None else read_config_file(path, named_by="--config", alone=False)
    lines = diagnose(values, host=arguments.host)
    counts = Counter(line.status for line in lines)
    if arguments.json:
        print_json({"lines": [asdict(line) for line in lines], "red": counts[Status.RED]})
    else:
        _print(lines, counts)
    return _RED if counts[Status.RED] else 0


def diagnose(values: Any, *, host: str | None = None) -> list[Line]:
    """Run all checks.

    Parameters
    ----------
    values : object or None
        The section ``floe`` of the configuration, as JSON; None without one.
    host : str, optional
        The model that vLLM runs.

    Returns
    -------
    list of Line
        A problem is a red line, never an exception.
    """
    # The checks import what they check, some of it heavy, and every command builds the parser.
    from vllm_logits_processor.commands.doctor_environment import environment_lines

    try:
        from vllm_logits_processor.commands.doctor_serving import serving_lines
    except ModuleNotFoundError as error:
        # With a configuration to check, the command names the missing extra.
        if values is not None or host is not None or not brings("fusion", str(error.name)):
            raise
        missing = f"not looked at, since {error.name} is not installed"
        advice = install_command("fusion")
        return [*environment_lines(), unknown("configuration", missing, advice)]
    return [*environment_lines(), *serving_lines(values, host=host)]


def _print(lines: list[Line], counts: Counter[Status]) -> None:
    coloured = sys.stdout.isatty()
    width = max(len(line.check) for line in lines)
    for line in lines:
        mark = f"{line.status:7}"
        if coloured:
            mark = f"{_COLOURS[line.status]}{mark}\x1b[0m"
        print(f"{mark}  {line.check:{width}}  {line.found}")
        if line.advice:
            print(f"{'':7}  {'':{width}}  -> {line.advice}")
    print(", ".join(f"{counts[status]} {status}" for status in Status))
