"""`floe-llm doctor`: checks versions, configuration, expert, gate and ports before a start."""

from __future__ import annotations

import argparse
from typing import Any

from floe_plugins.commands.doctor_lines import Line, unknown
from floe_plugins.extras import brings, install_command
from vllm_logits_processor.config_file import read_config_file

SUMMARY = "look over versions, configuration, expert, gate and ports"
EXTRAS = ("fusion", "embedded")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `floe-llm doctor`."""
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


def lines(arguments: argparse.Namespace) -> list[Line]:
    """Return what `diagnose` finds of the files that the arguments name."""
    path = arguments.config
    values = None if path is None else read_config_file(path, named_by="--config", alone=False)
    return diagnose(values, host=arguments.host)


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
