"""The table, and what it says."""

from integration_tests.benchmarks.aggregation_cost.measure import RANK, RANKS
from integration_tests.benchmarks.cli import Namespace, Result, Values


def result(values: Values, options: Namespace) -> Result:
    """Return one row per case."""
    cases = values["cases"]
    speedups = [case["speedup"] for case in cases]
    floors = [case["over_floor"] for case in cases]
    return Result(
        header=list(cases[0]),
        rows=[list(case.values()) for case in cases],
        remarks=[
            f"Factored, {min(speedups):.2g} to {max(speedups):.2g} times as fast as the dense way "
            f"and {min(floors):.2g} to {max(floors):.2g} times the time of one copy of the "
            f"factors; both agree to {max(case['relative_error'] for case in cases):.1e}.",
            f"Ranks of the devices drawn from {RANKS[0]} to {RANKS[1]}, result cut to {RANK}; "
            f"factored_s is the median of {options.repeats} runs, dense_s one run.",
        ],
    )
