"""`floe-llm adapter`: names the adapter of a run that serves a text best, or exports them all."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from floe_plugins.commands.output import add_json_option, print_json
from floe_plugins.errors import FloeError

_EXPORT = "export"
"""The word that stands in the place of RUN_DIR; a folder of this name is ``./export``."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "adapter",
        help="name the adapter of a federated run for a text, or export a run's adapters",
        usage="floe-llm adapter [-h] [--file FILE] [--json] RUN_DIR [TEXT]\n"
        "       floe-llm adapter export RUN_DIR --to gguf|peft [--out DIR] [--json]",
        description="Name the cluster adapter of a federated run that serves a text best: the one "
        "whose cluster's centroid is nearest to the text's embedding. Behind it stand its folder "
        "and the route that asks it in the form that it was trained in. With `export`, write all "
        "of a run's adapters for llama.cpp (gguf) or vLLM and PEFT (peft); RUN_DIR may be the "
        "folder of one adapter, too.",
    )
    parser.add_argument("folder", metavar="RUN_DIR", help="the run's output folder")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("text", metavar="TEXT", nargs="?", help="the text; else standard input")
    source.add_argument("--file", metavar="FILE", help="a text file in UTF-8")
    export = parser.add_argument_group("export")
    export.add_argument("--to", choices=("gguf", "peft"), help="the format to write")
    export.add_argument(
        "--out",
        metavar="DIR",
        help="a new or empty folder; without it GGUF files are written beside PEFT's",
    )
    add_json_option(parser)
    parser.set_defaults(run=_run, extras=("federated",))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.folder == _EXPORT:
        return _export(arguments)
    for option in ("to", "out"):
        if getattr(arguments, option) is not None:
            raise FloeError(f"--{option} is an option of `floe-llm adapter export RUN_DIR`.")
    return _adapter(arguments)


def _export(arguments: argparse.Namespace) -> int:
    if arguments.text is None or arguments.to is None:
        raise FloeError(
            "Write `floe-llm adapter export RUN_DIR --to gguf`, or peft; a run's folder that is "
            "called export is ./export."
        )

    from flower_strategy.adapter_export import export_adapters

    out = Path(arguments.out) if arguments.out is not None else None
    exported = export_adapters(arguments.text, to=arguments.to, out=out)
    if arguments.json:
        print_json([{"name": each.name, "path": str(each.path)} for each in exported])
    else:
        for each in exported:
            print(f"{each.name}  {each.path}")
    return 0


def _adapter(arguments: argparse.Namespace) -> int:
    text = arguments.text if arguments.text is not None else _read(arguments.file)

    from flower_strategy.adapter_choice import adapter_for_text

    choice = adapter_for_text(arguments.folder, text)
    if arguments.json:
        told: dict[str, Any] = {"name": choice.name, "path": str(choice.path)}
        told |= {"form": choice.form, "route": choice.route}
        told |= {"fits": choice.fits, "least_cosine": choice.least_cosine}
        print_json({**told, "cosines": dict(choice.cosines)})
    else:
        print(f"{choice.name}  {choice.path}  {choice.route}")
        if not choice.fits:
            print(
                f"The text is unlike the task of {choice.name}: its cosine is "
                f"{choice.cosines[choice.name]:.3f}, and prompts of that task have "
                f"{choice.least_cosine:.3f} or more. Ask the model without an adapter.",
                file=sys.stderr,
            )
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
