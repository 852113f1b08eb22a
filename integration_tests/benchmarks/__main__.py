"""Every benchmark, and the pages of results: ``make bench``, ``make bench-quick``."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from floe_plugins.commands.output import print_json
from floe_plugins.errors import ConfigError, FloeError
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import Data, find_data
from integration_tests.benchmarks.pages import draw, write_index, write_page
from integration_tests.benchmarks.suite import SUITE, Benchmark, Size, named
from integration_tests.harness.tiny_models import make_models

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
NOT_RUN = "it was not run."
#: Seconds; longer than a benchmark takes to stop its servers.
_PATIENCE_S = 30.0

OPTIONS = cli.Options(__package__)
OPTIONS.add(
    "--quick", help="with small sizes, into the results' folder 'quick'", action="store_true"
)
OPTIONS.add("--full", help="with the sizes of the published pages", action="store_true")
NAMES = ", ".join(each.name for each in SUITE)
OPTIONS.add("--only", help=f"of {NAMES}; the others keep their results", nargs="+", metavar="NAME")
OPTIONS.add("--data", help="folder of JSONL files to read (each one's own default)", type=Path)
OPTIONS.add(
    "--llm", help="larger model of answers and fusion_quality: embedded:NAME, a folder or a hub id"
)
OPTIONS.add("--pages", help="run nothing: pages and figures of what there is", action="store_true")
OPTIONS.add("--output", help="folder to write (docs/results, or docs/results/quick)", type=Path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; return 0 if all benchmarks gave a result, else 1."""
    options = OPTIONS.read(arguments)
    folder: Path = options.output or (RESULTS / "quick" if options.quick else RESULTS)
    try:
        if options.quick and options.full:
            raise ConfigError("--quick and --full are two sizes of one run; one is accepted.")
        size: Size = "quick" if options.quick else "full" if options.full else "usual"
        chosen = named(options.only or [])
        folder.mkdir(parents=True, exist_ok=True)
        data = None if options.data is None else find_data(options.data)
        if options.pages:
            left_out = rewrite(chosen, folder)
        else:
            left_out = measure(chosen, folder, size=size, data=data, llm=options.llm)
        index(folder, quick=options.quick, left_out=left_out)
    except FloeError as error:
        return cli.failed(error)
    finished = [each.name for each in chosen if each.name not in left_out]
    if options.json:
        print_json({"folder": str(folder), "finished": finished, "left_out": left_out})
    else:
        print(f"Written to {folder}: {', '.join(finished) or 'nothing'}.")
        for name, reason in left_out.items():
            print(f"Without a result, {name}: {reason}")
    return 1 if left_out else 0


def measure(
    chosen: Sequence[Benchmark],
    folder: Path,
    *,
    size: Size,
    data: Data | None = None,
    llm: str | None = None,
) -> dict[str, str]:
    """Run benchmarks and write each result as soon as it is available.

    Returns those without a result, and why; a failure does not stop the others.
    """
    left_out: dict[str, str] = {}
    quick = size == "quick"
    with tempfile.TemporaryDirectory() as models:
        # Quick runs test whether servers run, not what their models say.
        tiny = make_models(Path(models)).host if quick else ""
        runner = Runner(size=size, tiny=tiny, data=data, llm=llm)
        # Timed benchmarks have the machine to themselves. Quick runs only show that everything
        # runs, and spend most of their time starting processes.
        with ThreadPoolExecutor(2 if quick else 1) as pool:
            runs = {pool.submit(runner.run, benchmark): benchmark for benchmark in chosen}
            try:
                for done in cli.progress(as_completed(runs), "benchmarks", total=len(runs)):
                    try:
                        write(runs[done], done.result(), folder)
                    except FloeError as error:
                        left_out[runs[done].name] = str(error)
            except BaseException:
                runner.stop()
                raise
    return left_out


class FailedError(FloeError):
    """A benchmark ended without a result; says how."""


class Runner:
    """Runs benchmarks as a reader would, each in a process, from any thread, until stopped."""

    def __init__(
        self, *, size: Size, tiny: str = "", data: Data | None = None, llm: str | None = None
    ) -> None:
        self._arguments = partial(Benchmark.arguments, size=size, tiny=tiny, data=data, llm=llm)
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, benchmark: Benchmark) -> dict[str, Any]:
        """Run a benchmark and return its JSON; its progress goes to standard error.

        Raises `FailedError` for another status than 0, and for what is not one JSON object.
        """
        name, begun = benchmark.name, time.monotonic()
        cli.note(f"{name} begins")
        process = self._begin(benchmark)
        out, _ = process.communicate()
        cli.note(f"{name}: {time.monotonic() - begun:.0f} s")
        with self._lock:
            self._running.discard(process)
        if process.returncode != 0:
            raise FailedError(f"{name} ended with status {process.returncode}.")
        try:
            values = json.loads(out)
        except json.JSONDecodeError as error:
            raise FailedError(f"{name} printed no JSON: {error}.") from error
        if not isinstance(values, dict):
            raise FailedError(f"{name} printed no JSON object: {type(values).__name__}.")
        return values

    def stop(self) -> None:
        """End what is running, and start nothing more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_PATIENCE_S)
                    break
                # Libraries swallow interrupts while they are imported.
                process.terminate()

    def _begin(self, benchmark: Benchmark) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"integration_tests.benchmarks.{benchmark.name}"]
        options = self._arguments(benchmark)
        with self._lock:
            if self._stopped:
                raise FailedError(f"{benchmark.name} was not begun.")
            process = subprocess.Popen(
                [*command, *options, "--json"],
                # One thread per process, as in the servers: two cores fill up quickly.
                env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                # Ctrl-C comes to this process alone, and `stop` to that one: a second signal would
                # interrupt the ending of its servers.
                start_new_session=True,
            )
            self._running.add(process)
        return process


def rewrite(chosen: Sequence[Benchmark], folder: Path) -> dict[str, str]:
    """Rewrite figures and pages from the results in a folder; return the missing ones."""
    for benchmark, values in cli.progress(_results(chosen, folder), "pages"):
        write(benchmark, values, folder)
    return {each.name: NOT_RUN for each in chosen if not (folder / f"{each.name}.json").is_file()}


def _results(chosen: Sequence[Benchmark], folder: Path) -> list[tuple[Benchmark, dict[str, Any]]]:
    files = ((each, folder / f"{each.name}.json") for each in chosen)
    return [(each, json.loads(file.read_text("utf-8"))) for each, file in files if file.is_file()]


def write(benchmark: Benchmark, values: dict[str, Any], folder: Path) -> None:
    name = benchmark.name
    (folder / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    draw(name, values, folder / f"{name}.png")
    write_page(benchmark, values, frame=RESULTS / f"{name}.md", page=folder / f"{name}.md")


def index(folder: Path, *, quick: bool, left_out: dict[str, str]) -> None:
    """Write the index page of all results in a folder, from this run and earlier ones."""
    results = _results(SUITE, folder)
    there = {benchmark.name for benchmark, _ in results}
    missing = {each.name: NOT_RUN for each in SUITE if each.name not in there}
    write_index(folder / "index.md", results, quick=quick, left_out=missing | left_out)


if __name__ == "__main__":
    cli.run(main)
