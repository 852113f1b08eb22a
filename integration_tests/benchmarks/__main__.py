"""Every benchmark, and the pages of results: ``make bench``, ``make bench-quick``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from floe_plugins.commands.output import print_json
from floe_plugins.errors import FloeError
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import Data, find_data
from integration_tests.benchmarks.pages import draw, write_index, write_page
from integration_tests.benchmarks.running import ROOT, Runner
from integration_tests.benchmarks.suite import SUITE, Benchmark, named
from integration_tests.harness.tiny_models import make_models

RESULTS = ROOT / "docs" / "results"
NOT_RUN = "it was not run."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; return 0 if all benchmarks gave a result, 1 else."""
    parser = cli.parser("Run every benchmark and write the pages of results.")
    parser.prog = parser.prog.removesuffix(".__main__")
    add = parser.add_argument
    add("--quick", action="store_true", help="on little, into the folder 'quick' of the results")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"of {', '.join(each.name for each in SUITE)}; the others keep their results",
    )
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="JSONL files of questions and answers, and of texts with private spans, to read "
        "(each benchmark's own default)",
    )
    add("--pages", action="store_true", help="run nothing: pages and figures of what there is")
    add("--output", type=Path, help="folder to write (docs/results, or docs/results/quick)")
    options = parser.parse_args(arguments)
    folder: Path = options.output or (RESULTS / "quick" if options.quick else RESULTS)
    try:
        chosen = named(options.only)
        folder.mkdir(parents=True, exist_ok=True)
        data = None if options.data is None else find_data(options.data)
        if options.pages:
            left_out = rewrite(chosen, folder)
        else:
            left_out = measure(chosen, folder, quick=options.quick, data=data)
        index(folder, quick=options.quick, left_out=left_out)
    except FloeError as error:
        return cli.failed(error)
    finished = [each.name for each in chosen if each.name not in left_out]
    report = {"folder": str(folder), "finished": finished, "left_out": left_out}
    if options.json:
        print_json(report)
    else:
        print(f"Written to {folder}: {', '.join(finished) or 'nothing'}.")
        for name, reason in left_out.items():
            print(f"Without a result, {name}: {reason}")
    return 1 if left_out else 0


def measure(
    chosen: Sequence[Benchmark], folder: Path, *, quick: bool, data: Data | None = None
) -> dict[str, str]:
    """Run benchmarks, quick ones two at a time, and write what each gave as soon as it is there.

    Returns
    -------
    dict
        Those without a result, and why; the others are run all the same.
    """
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as models:
        # Quick runs are about whether servers run, and not about what their models say.
        tiny = make_models(Path(models)).host if quick else ""
        _measure(chosen, folder, left_out, quick=quick, tiny=tiny, data=data)
    return left_out


def _measure(
    chosen: Sequence[Benchmark],
    folder: Path,
    left_out: dict[str, str],
    *,
    quick: bool,
    tiny: str,
    data: Data | None,
) -> None:
    runner = Runner(quick=quick, tiny=tiny, data=data)

    def timed(benchmark: Benchmark) -> dict[str, Any]:
        begun = time.monotonic()
        cli.note(f"{benchmark.name} begins")
        try:
            return runner.run(benchmark)
        finally:
            cli.note(f"{benchmark.name}: {time.monotonic() - begun:.0f} s")

    # What is timed has the machine for itself. Quick runs show that all runs, and most of their
    # time is one process after the other being started.
    with ThreadPoolExecutor(2 if quick else 1) as pool:
        runs = {pool.submit(timed, benchmark): benchmark for benchmark in chosen}
        try:
            for done in cli.progress(as_completed(runs), "benchmarks", total=len(runs)):
                try:
                    write(runs[done], done.result(), folder)
                except FloeError as error:
                    left_out[runs[done].name] = str(error)
        except BaseException:
            runner.stop()
            raise


def rewrite(chosen: Sequence[Benchmark], folder: Path) -> dict[str, str]:
    """Write figures and pages anew from the results of a folder; return those that it lacks."""
    left_out = {}
    for benchmark in cli.progress(chosen, "pages"):
        file = folder / f"{benchmark.name}.json"
        if file.is_file():
            write(benchmark, json.loads(file.read_text("utf-8")), folder)
        else:
            left_out[benchmark.name] = NOT_RUN
    return left_out


def write(benchmark: Benchmark, values: dict[str, Any], folder: Path) -> None:
    """Write a result: JSON, figure and page."""
    name = benchmark.name
    (folder / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")
    draw(name, values, folder / f"{name}.png")
    write_page(benchmark, values, frame=RESULTS / f"{name}.md", page=folder / f"{name}.md")


def index(folder: Path, *, quick: bool, left_out: dict[str, str]) -> None:
    """Write the page that leads to all results of a folder, of this run and of earlier ones."""
    results, missing = [], dict(left_out)
    for benchmark in SUITE:
        file = folder / f"{benchmark.name}.json"
        if file.is_file():
            results.append((benchmark, json.loads(file.read_text("utf-8"))))
        else:
            missing.setdefault(benchmark.name, NOT_RUN)
    write_index(folder / "index.md", results, quick=quick, left_out=missing)


if __name__ == "__main__":
    sys.exit(cli.command(main))
