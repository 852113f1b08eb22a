"""Options of the benchmark; see the package for what it measures."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from floe_plugins.errors import FloeError
from floe_plugins.gate import Decision, Gate
from flower_strategy.data.embedded import make_examples
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import labelled_file
from integration_tests.benchmarks.gate.data import Prompt, read_prompts
from integration_tests.benchmarks.gate.measure import CHARS, Finder, measure, seconds_per_mb
from integration_tests.benchmarks.gate.peers import peers
from integration_tests.benchmarks.privacy.data import generated

#: Prompts of either kind where there is no file.
_GENERATED = 600

#: The targets for prompts.
LEAST_RECALL, MOST_ALARMS = 0.95, 0.05

_DESCRIPTION = (
    "Recall of private prompts and of each class, false alarms on clean prompts, and the time of "
    "the privacy gate with every built-in detector, and of other tools where they are installed."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = cli.parser(_DESCRIPTION)
    parser.prog = parser.prog.removesuffix(".__main__")
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        default=labelled_file(),
        metavar="FILE",
        help="a prompt with spans per line (pii_dev.jsonl of ../shared/data, else generated ones)",
    )
    add("--seed", type=int, default=0, help="of generated prompts (%(default)s)")
    add("--spacy", metavar="MODEL", help="name or folder of a spaCy model, for Presidio with spaCy")
    add("--no-peers", action="store_true", help="measure the gate only")
    options = parser.parse_args(arguments)
    try:
        prompts = read_prompts(options.data) if options.data else generated_prompts(options.seed)
        gate = _gate()
        result = measure(gate, prompts)
        result["seconds_per_mb"] = seconds_per_mb(gate, prompts)
        result["data"] = options.data.name if options.data else "generated"
        result["prompts"] = len(prompts)
        result["seed"] = options.seed
        result["peers"] = {}
        for name, start in ({} if options.no_peers else peers(options.spacy)).items():
            result["peers"][name] = measure(start(), prompts, name=name)
    except FloeError as error:
        return cli.failed(error)
    _show(options, result)
    return 0


def generated_prompts(seed: int) -> list[Prompt]:
    """Make private prompts and, of functions of Python's library, as many clean ones."""
    # The other embedded tasks speak of people with names.
    code = make_examples("code", count=_GENERATED, seed=seed)
    return generated(_GENERATED, Random(seed)) + [Prompt(each.prompt, ()) for each in code]


def _gate() -> Finder:
    """Return the gate with its default detectors, without limits that a slow machine may hit."""
    gate = Gate(timeout_s=60.0, max_chars=1_100_000)

    def find(text: str) -> list[tuple[int, int]] | None:
        verdict = gate.decide(text)
        if verdict.decision is Decision.CLEAR:
            return []
        return [(span.start, span.end) for span in verdict.spans] or None

    return find


def _show(options: Any, result: dict[str, Any]) -> None:
    columns = {"gate": result, **result["peers"]}
    single = ("prompt_recall", "false_alarm_rate", "f2", "p50_ms", "p99_ms")
    rows = [[name, *(_cell(column[name]) for column in columns.values())] for name in single]
    rows.append(["seconds_per_mb", result["seconds_per_mb"], *("" for _ in result["peers"])])
    rows += [
        [f"recall {label}", *(column["recall"][label] for column in columns.values())]
        for label in result["recall"]
    ]
    cli.show(
        options,
        result,
        header=["", *columns],
        rows=rows,
        remarks=[*_conclusions(result), f"Times are per {CHARS} characters."],
    )


def _conclusions(result: Mapping[str, Any]) -> list[str]:
    """Hold the gate against its targets."""
    recall, alarms = result["prompt_recall"], result["false_alarm_rate"]
    if recall is None or alarms is None:
        return []
    met = recall >= LEAST_RECALL and alarms <= MOST_ALARMS
    return [
        f"Recall of private prompts {recall:.3f} at {100 * alarms:.1f} % false alarms (target: "
        f"{LEAST_RECALL} at most {100 * MOST_ALARMS:g} %, {'met' if met else 'missed'}); "
        f"{result['p50_ms']:.2f} ms in the middle, {result['p99_ms']:.2f} ms for 99 of 100."
    ]


def _cell(value: float | None) -> float | str:
    return "-" if value is None else value


if __name__ == "__main__":
    sys.exit(cli.command(main))
