"""The page of the results: ``python -m integration_tests.gpu_check.page FILE.json [PAGE.md]``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from integration_tests.gpu_check.subjects import SUBJECTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "gpu.md"
TITLE = "# On a GPU"
NONE_YET = (
    f"{TITLE}\n\nThere are no figures yet: nobody has run `make gpu-check` on a machine with a "
    "GPU. [Serve on a GPU](../how-to/gpu.md#measure-it) says how.\n"
)


def page(found: Mapping[str, Any] | None) -> str:
    """Return the page's text; without results of a GPU it says so."""
    if found is None or found["device"] != "cuda":
        return NONE_YET
    facts = ", ".join(f"{name} {value}" for name, value in found["machine"].items() if value)
    lines = [TITLE, "", f"By `make gpu-check`; {facts}.", ""]
    for name, result in found["subjects"].items():
        said = result.get("reason") or "; ".join(result.get("failures", ()))
        lines += [f"## {SUBJECTS[name].capitalize()}", ""]
        lines += [f"{result['state'].capitalize()}{f': {said}' if said else ''}.", ""]
        values = result.get("values", {})
        for fact, value in values.items():
            if fact != "cases":
                lines += [f"- {_words(fact)}: {_shown(value)}"]
        if values.get("cases"):
            lines += ["", *_table(values["cases"])]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def _table(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    header = list(cases[0])
    rows = [[_shown(case[name]) for name in header] for case in cases]
    return [
        f"| {' | '.join(_words(name) for name in header)} |",
        f"|{' --- |' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return "–" if value is None else str(value)


def main(arguments: Sequence[str]) -> int:
    """Write the page of a file of results."""
    if not 1 <= len(arguments) <= 2:
        print("usage: python -m integration_tests.gpu_check.page FILE.json [PAGE.md]")
        return 2
    found = json.loads(Path(arguments[0]).read_text())
    target = Path(arguments[1]) if len(arguments) > 1 else PAGE
    target.write_text(page(found), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
