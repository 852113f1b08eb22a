"""The pages of results: what a benchmark's JSON says, as Markdown and a figure."""

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from floe_plugins.errors import ConfigError
from integration_tests.benchmarks.cli import Values, machine_line
from integration_tests.benchmarks.plotting import save
from integration_tests.benchmarks.suite import Benchmark

BEGIN, END = "<!-- result: begin -->", "<!-- result: end -->"
_NUMBER = re.compile(r"[-+±\d.,e %]*")


def draw(name: str, values: Values, file: Path) -> None:
    """Draw the figure of what a benchmark printed with ``--json`` as PNG."""
    save(import_module(f"integration_tests.benchmarks.{name}.figure").draw(values), file)


def write_page(benchmark: Benchmark, values: Values, *, frame: Path, page: Path) -> None:
    """Write a benchmark's page: the prose of `frame`, with the result between its two markers."""
    try:
        text = frame.read_text("utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{frame.name} is missing in {frame.parent.name}.") from error
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ConfigError(f"{frame.name} needs {BEGIN!r} and {END!r} once each.")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{result(benchmark, values)}\n{END}{after}", "utf-8")


def result(benchmark: Benchmark, values: Values) -> str:
    """Return figure, table, remarks, further tables and circumstances as Markdown."""
    name, run = benchmark.name, values["run"]
    lines = [f"![{benchmark.title}]({name}.png)", ""]
    lines += markdown_table(values["table"]["header"], values["table"]["rows"])
    # A list that begins right below a table would be taken for a row of it.
    lines += ["", *(f"- {_escaped(remark)}" for remark in values["remarks"]), ""]
    for other in values.get("other_tables", ()):
        lines += [_escaped(other["caption"]), ""]
        lines += [*markdown_table(other["header"], other["rows"]), ""]
    lines += [f"Command: `{run['command']}`, {run['seconds']:.0f} seconds.  "]
    lines += [f"{_seeds(values)}  ", machine_line(values["machine"])]
    return "\n".join([*lines, f"All figures: [{name}.json]({name}.json).", ""])


def write_index(
    page: Path,
    results: Sequence[tuple[Benchmark, Values]],
    *,
    quick: bool,
    left_out: Mapping[str, str],
) -> None:
    """Write the page that leads to all others; `left_out` says why some have no result."""
    kind = (
        "with small sizes, to see that they run (`make bench-quick`)"
        if quick
        else "by `make bench`"
    )
    rows = [
        [
            f"[{benchmark.title}]({benchmark.name}.md)",
            _escaped(values["remarks"][0]) if values["remarks"] else "",
            f"{values['run']['seconds']:.0f}",
        ]
        for benchmark, values in results
    ]
    total = sum(values["run"]["seconds"] for _, values in results)
    lines = [
        "# Results",
        "",
        f"Every benchmark as it came out, measured {kind}. Each page has the command, the figure, "
        "the table and what they show or do not show.",
        "",
        *markdown_table(["benchmark", "what came out, in a line", "seconds"], rows),
        "",
        f"All together: {total / 60:.0f} minutes.",
        *(["", "Without a result:", ""] if left_out else []),
        *(f"- {name}: {_escaped(reason)}" for name, reason in left_out.items()),
        "",
    ]
    page.write_text("\n".join(lines), "utf-8")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a Markdown table; numbers are to the right."""
    columns = range(len(header))
    numeric = [
        bool(rows) and all(_NUMBER.fullmatch(str(row[at])) for row in rows) for at in columns
    ]
    cells = [[_escaped(str(cell)) for cell in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    rule = " | ".join("---:" if right else "---" for right in numeric)
    return [lines[0], f"| {rule} |", *lines[1:]]


def _seeds(values: Values) -> str:
    if "seeds" in values:
        return f"Seeds: {', '.join(map(str, values['seeds']))}."
    return f"Seed: {values['seed']}." if "seed" in values else "Seeds: fixed by the code."


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
