"""The table, and the aims compared with its cases."""

from integration_tests.benchmarks.cli import Namespace, Result, Values

#: Processor milliseconds of a step of so many rows: begin (trusted, gated), decide, call.
AIMED_ROWS = 64
AIMS = {"begin_ms": (1.0, 2.0), "decide_ms": (1.0, 1.0), "calls_ms": (1.5, 1.5)}
#: A step of four times the rows may cost so many times as much.
GROWTH = 4.2


def result(values: Values, options: Namespace) -> Result:
    """Return one row per case."""
    cases = values["cases"]
    return Result(
        header=list(cases[0]),
        rows=[list(case.values()) for case in cases],
        remarks=[
            _aims([case for case in cases if case["rows"] == AIMED_ROWS]),
            f"Medians of {options.steps} steps, after {options.warm_up} that are not timed; "
            "processor time, not the clock's.",
            f"In a step, {values['wanted']:.2f} distributions per stream were asked for.",
        ],
    )


def _aims(cases: list[Values]) -> str:
    if not cases:
        return f"No case of {AIMED_ROWS} rows, which the aims are about."
    said = []
    for name, (trusted, gated) in AIMS.items():
        for case in cases:
            aim = gated if case["gated"] else trusted
            kind = "gated" if case["gated"] else "trusted"
            said.append(f"{name} {kind} {case[name]:.2f} (aim {aim:g})")
    return f"At {AIMED_ROWS} rows: {', '.join(said)}."
