"""`floe-llm doctor train`: checks a run before it starts, without Flower."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_plugins.commands.doctor_lines import Line, green, red, unknown
from floe_plugins.errors import ConfigError, FloeError, first_line

if TYPE_CHECKING:
    from flower_strategy.config import RunConfig

SUMMARY = "look over model, data, keys, memory and output of a run"
EXTRAS = ("federated", "embedded")

_PAIR = re.compile(r"""[\w-]+\s*=\s*("[^"]*"|'[^']*'|[^\s"']+)(\s+|$)""")

_ADVICE = "set what the sentence names, and ask again; no device is asked before this is green"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `floe-llm doctor train`."""
    parser.add_argument(
        "app",
        nargs="?",
        default=".",
        metavar="APP",
        help="the Flower App's folder, whose pyproject.toml has [tool.flwr.app.config]",
    )
    parser.add_argument(
        "--run-config",
        action="append",
        metavar="KEYS",
        help="what `flwr run --run-config` takes: \"model='...' rounds=5\", or a TOML file",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        metavar="N",
        help="number of simulated nodes; by default one of each of the run's devices",
    )


def lines(arguments: argparse.Namespace) -> list[Line]:
    """Look everything over; what is wrong is a red line, and what rests on it is unknown."""
    # Imports torch and transformers, and the parser is made for every command.
    from flower_strategy.config import RunConfig
    from flower_strategy.preflight import Preflight

    try:
        config = RunConfig.from_dict(_run_config(Path(arguments.app), arguments.run_config))
    except FloeError as error:
        return [red("keys", str(error), _ADVICE)]
    found = [green("keys", _changed(config))]
    nodes = arguments.nodes or len(config.devices)
    looked = Preflight(config=config, num_partitions=nodes, show_texts=True)
    for check in looked.checks():
        try:
            found.append(green(check.subject, check.look()))
        except FloeError as error:
            # Two checks that need the same thing would say its fault twice.
            if any(line.found == str(error) for line in found):
                found.append(unknown(check.subject, "not looked at, for the reason above"))
            else:
                found.append(red(check.subject, str(error), _ADVICE))
    return found


def _changed(config: RunConfig) -> str:
    from flower_strategy.config import RunConfig

    usual = dict(RunConfig())
    names = {attribute: key for key, attribute in RunConfig.names().items()}
    changed = [
        f"{names[name]}={RunConfig.written(value)!r}"
        for name, value in dict(config).items()
        if value != usual[name]
    ]
    return ", ".join(changed) or "all as by default"


def _run_config(app: Path, given: list[str] | None) -> Mapping[str, Any]:
    """Return the app's keys with those of ``--run-config`` above them, as Flower does.

    Raises
    ------
    ConfigError
        One of them is no TOML.
    """
    project = app / "pyproject.toml"
    values: dict[str, Any] = {}
    if project.is_file():
        content = _toml(project)
        values |= content.get("tool", {}).get("flwr", {}).get("app", {}).get("config", {})
    for text in given or []:
        values |= _toml(Path(text)) if text.endswith(".toml") else _pairs(text)
    return values


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {first_line(error)}.") from error


def _pairs(text: str) -> dict[str, Any]:
    """Read pairs as ``flwr run`` takes them: each value is TOML, blanks stand between them."""
    if rest := _PAIR.sub("", text).strip():
        raise ConfigError(
            f"--run-config {text!r} cannot be read at {rest!r}; accepted are pairs such as "
            "\"model='...' rounds=5\", or a file that ends in .toml."
        )
    try:
        return tomllib.loads("\n".join(pair[0].strip() for pair in _PAIR.finditer(text)))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"--run-config {text!r} cannot be read: {first_line(error)}; texts stand in quotes."
        ) from error
