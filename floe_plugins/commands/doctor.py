"""`floe-llm doctor`: looks over what a server or a run would start with, before it starts.

A package adds a subject with an entry point in the group `floe_llm.doctors`, whose value is a
module with ``add_arguments(parser)`` and ``lines(arguments)``; ``SUMMARY`` is its line of help.
`DEFAULT` needs no name on the command line.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from types import ModuleType

from floe_plugins.commands.doctor_lines import Line, Status, red
from floe_plugins.commands.output import add_json_option, print_json
from floe_plugins.errors import first_line

GROUP = "floe_llm.doctors"
DEFAULT = "serving"

_RED = 1
_COLOURS = {Status.GREEN: "\x1b[32m", Status.RED: "\x1b[31m", Status.UNKNOWN: "\x1b[33m"}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    subjects = {
        entry.name: _loaded(entry)
        for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    }
    parser = commands.add_parser(
        "doctor",
        help="look over what a server or a run would start with",
        description="Look over what a server would start with, or with a name what something else "
        "would. Each line is green, red or unknown; a red one says what to do.",
        epilog="Exit code: 0 if nothing is red, 1 if something is, 2 after an error.",
    )
    if DEFAULT in subjects:
        _complete(parser, subjects.pop(DEFAULT))
    if subjects:
        named = parser.add_subparsers(metavar="SUBJECT", required=not parser.get_default("run"))
        for name, subject in subjects.items():
            _complete(
                named.add_parser(
                    name,
                    help=subject.SUMMARY,
                    description=f"{subject.SUMMARY[0].upper()}{subject.SUMMARY[1:]}. Each line is "
                    "green, red or unknown; a red one says what to do.",
                    epilog=parser.epilog,
                ),
                subject,
            )


def _loaded(entry: metadata.EntryPoint) -> ModuleType:
    try:
        module: ModuleType = entry.load()
        return module
    # The code of any installed package runs here, and one that fails must not take `floe-llm` away
    # from its user: the reason is said by whoever asks for the subject.
    except Exception as error:  # noqa: BLE001
        return _Broken(entry.name, f"{type(error).__name__}: {first_line(error)}")


class _Broken(ModuleType):
    """A subject whose module cannot be loaded."""

    EXTRAS: Sequence[str] = ()

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.SUMMARY = f"cannot be loaded: {reason}".replace("%", "%%")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add none."""

    def lines(self, _: argparse.Namespace) -> list[Line]:
        """Return the reason."""
        return [red(self.__name__, self.SUMMARY, "install its package anew, or remove it")]


def _complete(parser: argparse.ArgumentParser, subject: ModuleType) -> None:
    subject.add_arguments(parser)
    add_json_option(parser)
    parser.set_defaults(run=_runner(subject.lines), extras=subject.EXTRAS)


def _runner(
    lines: Callable[[argparse.Namespace], Sequence[Line]],
) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        found = lines(arguments)
        counts = Counter(line.status for line in found)
        if arguments.json:
            print_json({"lines": [asdict(line) for line in found], "red": counts[Status.RED]})
        else:
            _print(found, counts)
        return _RED if counts[Status.RED] else 0

    return run


def _print(lines: Sequence[Line], counts: Counter[Status]) -> None:
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
