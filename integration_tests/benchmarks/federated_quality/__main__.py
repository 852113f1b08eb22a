"""Options of the benchmark."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import tasks_or_embedded
from integration_tests.benchmarks.federated_quality.measure import measure
from integration_tests.benchmarks.federated_quality.methods import (
    DEFAULT_METHODS,
    NAMES,
    SAME,
    method_of,
)
from integration_tests.benchmarks.federated_quality.result import result
from integration_tests.benchmarks.federated_quality.world import Protocol


def _methods(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(cli.listed(str)(text)))
    unknown = [name for name in names if method_of(name) is None]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"{text!r} names no method {', '.join(unknown)}; known: {', '.join(NAMES)}, "
            "and the federated ones but floe with :int8, :filled or both after them"
        )
    return names


#: What `Protocol` has, by its name: help, and the least that is accepted.
_TERMS: dict[str, tuple[str, float | None]] = {
    "model": ("frozen base model", None),
    "clients": ("devices", 1),
    "devices": ("device classes, given out in turn", None),
    "ranks": ("candidate ranks", None),
    "budget": ("virtual seconds", None),
    "local_steps": ("steps per device and round", 1),
    "batch_size": ("examples of a step", 1),
    "learning_rate": ("", None),
    "max_length": ("tokens of an example", None),
    "eval_examples": ("held-out examples per device", 1),
    "examples": ("examples that a device trains on at most; 0 is all", 0),
    "merges": ("rounds of a method with :filled", 1),
    "step_seconds": ("virtual seconds of a step with slowdown 1: at rank 0, and per rank", None),
    "downlink": ("times that devices download faster than they upload", None),
}

OPTIONS = cli.Options(__package__)
OPTIONS.add("--seeds", (0, 1, 2), type=cli.listed(int, once=True))
shares = "of a device's examples that are drawn from all tasks alike: 1 is IID, 0 one task each"
OPTIONS.add("--levels", (1.0, 0.5, 0.0), shares, type=cli.listed(float, once=True))
OPTIONS.add(
    "--methods",
    DEFAULT_METHODS,
    f"among {', '.join(NAMES)}; the federated ones but floe also with :int8 and :filled after them",
    type=_methods,
)
OPTIONS.add("--data", tasks_or_embedded(), "JSONL files or folders, one task each, or 'embedded'")
for term in fields(Protocol):
    if term.name in _TERMS:
        text, least = _TERMS[term.name]
        more: dict[str, Any] = {}
        if isinstance(term.default, tuple):
            each = type(term.default[0])
            more["type"] = cli.listed(each, once=each is not str)
        OPTIONS.add(f"--{term.name.replace('_', '-')}", term.default, text, least=least, **more)
OPTIONS.add("--more-seeds", 1, "seeds, the first ones, for what follows", least=0)
few = ("floe", f"flexlora{SAME}", "local")
OPTIONS.add("--curve-budgets", (18.0, 30.0, 50.0), "less time", type=cli.listed(float, once=True))
OPTIONS.add("--curve-levels", (1.0,), "levels with less time", type=cli.listed(float, once=True))
OPTIONS.add("--curve-methods", few, "methods with less time", type=_methods)
OPTIONS.add("--few-examples", 12, "examples of a device that has few", least=1)
OPTIONS.add("--few-levels", (1.0, 0.0), "levels with few", type=cli.listed(float, once=True))
OPTIONS.add("--few-methods", few, "methods with few", type=_methods)
OPTIONS.add("--measure-steps", help="time a step on this machine instead", action="store_true")
OPTIONS.add("--jobs", 2, "worker processes of one thread each", least=1)
OPTIONS.add("--resume", help="JSONL file to keep results in and to go on from", type=Path)


def check(options: cli.Namespace) -> str | None:
    count = len(options.step_seconds)
    return None if count == 2 else f"--step-seconds needs two numbers, got {count}"


main = cli.main_of(OPTIONS, measure, result, check=check)

if __name__ == "__main__":
    cli.run(main)
